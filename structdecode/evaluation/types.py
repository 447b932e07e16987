"""The nouns of an evaluation. Immutable values, ready for JSON; what follows from them is a property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from structdecode.images import ImageSource
from structdecode.types import Prompt

Kind = Literal["choice", "number", "yes-no", "set", "latex", "text"]
"""What form an answer has; it decides which rules match it."""

Status = Literal["answered", "abstained", "refused", "empty"]
"""``abstained``: says that it does not know · ``refused``: declines to answer · ``empty``: nothing there to match."""


@dataclass(frozen=True)
class Question:
    """A question with its reference answers.

    Attributes:
        text: what the model is asked, options included as they are shown.
        answers: accepted references, any of which is right (for ``set``: each a comma-separated list).
        images: sources, opened only by `prompt`: a path, bytes, a data URL or a PIL image.
        options: of a multiple-choice question, letter -> text.
        kind: None where the data does not say: then the matcher decides from options and answers.
        tolerance: relative tolerance for numbers, None for exact ones.
        stages: reference text by stage name, where the data has it (LLaVA-CoT rows do).
        source: "file:line" (or row) that it came from, for messages.
        cluster: of questions that are not independent of each other; empty: those with the same pictures.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    images: tuple[ImageSource, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    tolerance: float | None = None
    category: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    cluster: str = ""

    def prompt(self) -> Prompt:
        """Raises `ImageError` or `PromptError` where it cannot be asked."""
        return Prompt(self.text, self.images)


@dataclass(frozen=True)
class Rejected:
    """A row of a data file that was left out: where, which of the known problems, and what to do about it."""

    file: str
    line: int | None
    problem: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}"


@dataclass(frozen=True)
class Match:
    """Whether an answer is right, and which rule said so.

    Attributes:
        extracted: the answer itself, normalised, as found in the text; equal answers are equal texts.
    """

    correct: bool
    rule: str
    extracted: str
    status: Status = "answered"


@dataclass(frozen=True)
class Pooled:
    """A candidate that the strategy ranked: its place in the tree, its answer, whether that is right, its score."""

    path: tuple[int, ...]
    answer: str
    correct: bool
    score: float | None
    valid: bool


@dataclass(frozen=True)
class Round:
    """One round of verification.

    Attributes:
        paths: of the candidates that were scored together. values: their scores, None where unscored.
        right: whether each one's stage text is right; None where that cannot be told.
    """

    stage: str
    verifier: str
    paths: tuple[tuple[int, ...], ...]
    values: tuple[float | None, ...]
    right: tuple[bool | None, ...]


@dataclass(frozen=True)
class Record:
    """One finished question of one cell: a line of ``records.jsonl``.

    Attributes:
        key: digest of everything that decides the result (cell, budget, schema, model, seed, question with pictures).
        cell: the cell's name, unique in a study. answer: visible text of the best candidate.
        correct, rule, extracted, status: of `Match`.
        usage: counts of `Usage` by part (``generator``, ``verifier``; ``judge`` of answers), ``seconds`` left out. flops: by part likewise.
        seconds: wall time from the question's start to its end (others run beside it; not part of any table of results).
        stages: text by stage of the best candidate. wrong_stages: those whose text differs from the reference.
        error: where the question could not be asked at all: why. It counts as wrong.
    """

    key: str
    cell: str
    id: str
    strategy: str
    verifier: str | None
    settings: Mapping[str, Any]
    seed: int
    answer: str
    correct: bool
    rule: str
    extracted: str
    status: Status
    valid: bool
    usage: Mapping[str, Mapping[str, int]]
    flops: Mapping[str, float]
    seconds: float
    stopped_by: str | None
    stages: Mapping[str, str]
    wrong_stages: tuple[str, ...]
    pool: tuple[Pooled, ...]
    rounds: tuple[Round, ...]
    failures: tuple[str, ...] = ()
    error: str = ""

    @property
    def covered(self) -> bool:
        """Whether any finished candidate was right (pass@N)."""
        return self.correct or any(candidate.correct for candidate in self.pool)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in data.items() if key in known}
        given["wrong_stages"] = tuple(given["wrong_stages"])
        given["failures"] = tuple(given.get("failures", ()))
        given["pool"] = tuple(Pooled(**{**p, "path": tuple(p["path"])}) for p in given["pool"])
        given["rounds"] = tuple(
            Round(r["stage"], r["verifier"], tuple(tuple(p) for p in r["paths"]), tuple(r["values"]), tuple(r["right"]))
            for r in given["rounds"]
        )
        return cls(**given)
