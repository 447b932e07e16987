"""The nouns of answer matching. Immutable values, ready for JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from structdecode.core.images import ImageSource
from structdecode.core.types import Prompt

_LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SEVERAL_LETTERS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|;|and|&)\s*\(?[A-Z]\)?)+")

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
        return Prompt(self.text, self.images, options=self._listed(), answer_kind=self.kind or self._of_options())

    def _listed(self) -> tuple[str, ...]:
        """The options' texts from A on, empty for a letter that has none; nothing where they have other names."""
        texts = {letter.strip().upper(): text for letter, text in self.options.items()}
        if not all(letter in _LETTERS for letter in texts):
            return ()
        return tuple(texts.get(letter, "") for letter in _LETTERS[: 1 + max(map(_LETTERS.index, texts), default=-1)])

    def _of_options(self) -> Kind | None:
        """What the options make of it: one letter, or a set of them where a reference has several."""
        if not self._listed():
            return None
        several = any(SEVERAL_LETTERS.fullmatch(answer.strip()) for answer in self.answers)
        return "set" if several else "choice"


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
