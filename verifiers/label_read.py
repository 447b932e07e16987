"""Asks the model questions with a closed set of answers and reads the probability of each."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import numpy as np

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings, configure
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import shown
from structdecode.verifiers.labels import Reading, read_labels

_LABELS: Mapping[str, Sequence[str]] = {
    "yes-no": ("yes", "no"), "choice": string.ascii_uppercase, "score": string.digits,
}  # fmt: skip
"""The answers that each kind of question has, in the order of its options."""


@dataclass(frozen=True)
class LabelQuestion:
    """A question about a candidate with a closed set of answers.

    Attributes:
        instructions: what is asked, with ``{question}``, ``{hint}``, ``{stage}`` and ``{text}`` as in `PTrue`'s template.
        kind: how it is answered: yes or no; the letter of one of the options; the number of one of the levels, from 0.
        options: the texts of a choice, at most 26, or of a score's levels, lowest first and at most 10.
        right: options that count as right: the value is their probability. Default: "yes", and for a score none: there
            the value is the expected level (the sum of i times its probability), divided by the highest.
        both_orders: a choice is asked twice, its options turned around, and each option's probability is the mean.
    """

    instructions: str = prompts.IS_IT_RIGHT
    kind: Literal["yes-no", "choice", "score"] = "yes-no"
    options: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    both_orders: bool = True

    def __post_init__(self) -> None:
        check_settings(self, "label-read")
        most = len(_LABELS[self.kind])
        if self.kind == "yes-no" and self.options:
            raise ConfigError("label-read: options go with kind choice or score, not with yes-no")
        if self.kind != "yes-no" and not 2 <= len(self.options) <= most:
            raise ConfigError(f"label-read: options of a {self.kind} are 2 to {most} texts, not {len(self.options)}")
        if len(set(self.options)) < len(self.options):
            raise ConfigError(f"label-read: options must differ, not {', '.join(self.options)}")
        unknown = [text for text in self.right if text not in self.answers]
        if unknown or (self.kind == "choice" and not self.right):
            asked = f"not {unknown[0]!r}" if unknown else "at least one"
            raise ConfigError(f"label-read: right names some of {', '.join(self.answers)}, {asked}")

    @property
    def answers(self) -> Sequence[str]:
        return self.options or _LABELS["yes-no"]

    async def read(self, state: str, shown: Mapping[str, str], prompt: Prompt, model: Model) -> dict[str, Any]:
        """The value and what it was made of. ``shown``: what placeholders stand for."""
        numbers = range(len(self.answers))
        orders = [numbers, numbers[::-1]] if self.kind == "choice" and self.both_orders else [numbers]
        labels = _LABELS[self.kind][: len(numbers)]
        readings: list[Reading] = await asyncio.gather(
            *(read_labels(model, Prompt(self._text(state, shown, o), prompt.images), labels) for o in orders)
        )
        ordered = [
            [r.probabilities[order.index(i)] for i in numbers] for r, order in zip(readings, orders, strict=True)
        ]
        probabilities = np.mean(ordered, axis=0).tolist()
        mass = float(np.mean([reading.mass for reading in readings]))
        found = dict(zip(self.answers, probabilities, strict=True))
        return {
            "value": float(np.dot(probabilities, self._worth())),
            "answer": max(found, key=found.__getitem__),
            "probabilities": found,
            "label_mass": mass,
            "confidence": max(probabilities) * mass,
        }

    def _worth(self) -> list[float]:
        """Of each answer, from 0 to 1."""
        if self.kind == "score" and not self.right:
            return [level / (len(self.options) - 1) for level in range(len(self.options))]
        right = self.right or ("yes",)
        return [float(text in right) for text in self.answers]

    def _text(self, state: str, shown: Mapping[str, str], order: Sequence[int]) -> str:
        lines = [f"{_LABELS[self.kind][place]}: {self.options[i]}\n" for place, i in enumerate(order) if self.options]
        return prompts.fill(
            prompts.LABEL_READ, state=state, instructions=prompts.fill(self.instructions, **shown),
            options="".join(lines), reply=prompts.REPLIES[self.kind],
        )  # fmt: skip


@dataclass(frozen=True)
class LabelRead(LabelQuestion):
    """The probability of the right answers to a question about the newest stage, read from any model without generation.

    After vLLM's structured decisions (`entrypoints/generate/structured_decisions`, Apache-2.0): the state first, then
    the question with a label for each option; softmax over the labels alone. Details say the labels' total probability
    among all answers (``label_mass``) and that of the likeliest one (``confidence``). A label of several tokens has the
    sum of their log-probabilities. All questions of a candidate begin with the same state, which is computed once where
    a backend has a prefix cache.

    Attributes:
        questions: several of these by id, in place of the one above: a rubric. The score is their weighted mean.
        weights: by the same ids, default 1.
        state: what they are about, with the placeholders of ``instructions``.
    """

    questions: Mapping[str, str | LabelQuestion] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    state: str = prompts.STATE

    def __post_init__(self) -> None:
        super().__post_init__()
        own = [f.name for f in fields(LabelQuestion) if getattr(self, f.name) != f.default]
        if self.questions and own:
            raise ConfigError(f"label-read: {own[0]} goes into each of the questions, not beside them")
        if unknown := set(self.weights) - set(self.questions):
            raise ConfigError(f"label-read: weights for {', '.join(sorted(unknown))}, which are not questions")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ConfigError("label-read: weights must be above 0")
        object.__setattr__(self, "questions", {name: _question(name, q) for name, q in self.questions.items()})

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return list(await asyncio.gather(*(self._score(prompt, candidate, model) for candidate in candidates)))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        placeholders = shown(prompt.question, candidate)
        state = prompts.fill(self.state, **placeholders)
        if not self.questions:
            found = await self.read(state, placeholders, prompt, model)
            return Score(found["value"], found["answer"], found)
        rubric = cast("Mapping[str, LabelQuestion]", self.questions)
        readings = await asyncio.gather(*(q.read(state, placeholders, prompt, model) for q in rubric.values()))
        weights = [self.weights.get(name, 1.0) for name in rubric]
        details = dict(zip(rubric, readings, strict=True))
        reason = ", ".join(f"{name}: {found['answer']}" for name, found in details.items())
        return Score(float(np.average([found["value"] for found in readings], weights=weights)), reason, details)


def _question(name: str, given: Any) -> LabelQuestion:
    """A question from its text alone, which yes or no answers, or from its fields."""
    if isinstance(given, LabelQuestion):
        return given
    settings = {"instructions": given} if isinstance(given, str) else given
    if not isinstance(settings, Mapping):
        raise ConfigError(f"label-read: questions.{name} must be a text or a mapping, not {given!r:.80}")
    try:
        return configure(LabelQuestion, f"questions.{name}", settings)
    except ConfigError as error:
        raise ConfigError(f"label-read: questions.{name}: {error}") from None
