"""The nouns of an evaluation. Immutable values, ready for JSON; what follows from them is a property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from structdecode.matching.types import Kind as Kind
from structdecode.matching.types import Match as Match
from structdecode.matching.types import Question as Question
from structdecode.matching.types import Status as Status


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate that the strategy ranked: its place in the tree, its answer, whether that is right, its score."""

    path: tuple[int, ...]
    answer: str
    correct: bool
    score: float | None
    valid: bool


@dataclass(frozen=True)
class ScoringRound:
    """One round of verification.

    Attributes:
        paths: of the candidates that were scored together. values: their scores, None where unscored.
        right: whether each one's stage text is right; None where that cannot be told.
        reason: why a candidate has no score, of the first that has none.
    """

    stage: str
    verifier: str
    paths: tuple[tuple[int, ...], ...]
    values: tuple[float | None, ...]
    right: tuple[bool | None, ...]
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """One finished question of one cell: a line of ``records.jsonl``.

    Attributes:
        key: digest of everything that decides the result (cell, budget, schema, model, seed, question with pictures).
        cell: the cell's name, unique in a study. answer: visible text of the best candidate.
        correct, rule, extracted, status: of `Match`.
        usage: counts of `Usage` by part (``generator``, ``verifier``; ``judge`` of answers), ``seconds`` left out.
        flops: by part likewise, of the search's model and of verifiers' own models that say theirs.
        seconds: wall time from the question's start to its end (others run beside it; not part of any table of results).
        verifier_seconds: of these, those in which the verifier had work under way; 0 where that was not kept.
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
    usage: Mapping[str, Mapping[str, float]]
    flops: Mapping[str, float]
    seconds: float
    stopped_by: str | None
    stages: Mapping[str, str]
    wrong_stages: tuple[str, ...]
    pool: tuple[ScoredCandidate, ...]
    rounds: tuple[ScoringRound, ...]
    failures: tuple[str, ...] = ()
    error: str = ""
    verifier_seconds: float = 0.0

    @property
    def covered(self) -> bool:
        """Whether any finished candidate was right (pass@N)."""
        return self.correct or any(candidate.correct for candidate in self.pool)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        given = _known(cls, data)
        given["wrong_stages"] = tuple(given["wrong_stages"])
        given["failures"] = tuple(given.get("failures", ()))
        given["pool"] = tuple(ScoredCandidate(**{**p, "path": tuple(p["path"])}) for p in given["pool"])
        given["rounds"] = tuple(
            ScoringRound(
                r["stage"],
                r["verifier"],
                tuple(tuple(p) for p in r["paths"]),
                tuple(r["values"]),
                tuple(r["right"]),
                r.get("reason", ""),
            )
            for r in given["rounds"]
        )
        return cls(**given)


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a newer version has added."""
    names = {f.name for f in fields(kind)}
    return {key: value for key, value in data.items() if key in names}
