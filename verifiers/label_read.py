"""Asks the model questions with a closed set of answers and reads the probability of each."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import numpy as np

from structdecode.backends.openai.pictures import data_url
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings, configure
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.decisions import DecisionError, decide, reading_of
from structdecode.verifiers.hints import shown
from structdecode.verifiers.labels import Reading, read_labels

_LABELS: Mapping[str, Sequence[str]] = {
    "yes-no": ("yes", "no"), "choice": string.ascii_uppercase, "score": string.digits,
}  # fmt: skip
"""The answers that each kind of question has, in the order of its options."""
_TYPES: Mapping[str, str] = {"yes-no": "noul", "choice": "choice", "score": "score"}
"""What servers call the kinds."""


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

    @property
    def labels(self) -> Sequence[str]:
        return _LABELS[self.kind][: len(self.answers)]

    @property
    def orders(self) -> Sequence[Sequence[int]]:
        """In which its options are shown, by their numbers."""
        numbers = range(len(self.answers))
        return [numbers, numbers[::-1]] if self.kind == "choice" and self.both_orders else [numbers]

    def text(self, state: str, placeholders: Mapping[str, str], order: Sequence[int]) -> str:
        lines = [f"{label}: {self.options[i]}\n" for label, i in zip(self.labels, order, strict=True) if self.options]
        return prompts.fill(
            prompts.LABEL_READ, state=state, instructions=prompts.fill(self.instructions, **placeholders),
            options="".join(lines), reply=prompts.REPLIES[self.kind],
        )  # fmt: skip

    def found(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """The value and what it was made of. ``readings``: one for each of `orders`."""
        ordered = [
            [reading.probabilities[order.index(i)] for i in range(len(self.answers))]
            for reading, order in zip(readings, self.orders, strict=True)
        ]
        probabilities = np.mean(ordered, axis=0).tolist()
        mass = float(np.mean([reading.mass for reading in readings]))
        by_answer = dict(zip(self.answers, probabilities, strict=True))
        return {
            "value": float(np.dot(probabilities, self._worth())),
            "answer": max(by_answer, key=by_answer.__getitem__),
            "probabilities": by_answer,
            "label_mass": mass,
            "confidence": max(probabilities) * mass,
        }

    def _worth(self) -> list[float]:
        """Of each answer, from 0 to 1."""
        if self.kind == "score" and not self.right:
            return [level / (len(self.options) - 1) for level in range(len(self.options))]
        right = self.right or ("yes",)
        return [float(text in right) for text in self.answers]


_Rubric = Mapping[str, LabelQuestion]


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
        server: the address of a decision model that is asked in place of the model at hand, such as
            ``http://localhost:8000/v1/systemone``. It gets state, questions and pictures (``images``, as data URLs) in
            one request a candidate and words the prompt itself; not every server looks at pictures. Where it fails, the
            candidate is unscored.
        server_model: the model's name there. retries: further tries after no connection, HTTP 429 or 5xx.
        timeout: seconds of one try.
    """

    questions: Mapping[str, str | LabelQuestion] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    state: str = prompts.STATE
    server: str = ""
    server_model: str = ""
    retries: int = 2
    timeout: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        own = [f.name for f in fields(LabelQuestion) if getattr(self, f.name) != f.default]
        if self.questions and own:
            raise ConfigError(f"label-read: {own[0]} goes into each of the questions, not beside them")
        if unknown := set(self.weights) - set(self.questions):
            raise ConfigError(f"label-read: weights for {', '.join(sorted(unknown))}, which are not questions")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ConfigError("label-read: weights must be above 0")
        if self.server and not self.server.startswith(("http://", "https://")):
            raise ConfigError(f"label-read: server {self.server} has to begin with http:// or https://")
        if self.retries < 0 or self.timeout <= 0:
            raise ConfigError("label-read: retries must be 0 or more, and timeout above 0")
        object.__setattr__(self, "questions", {name: _question(name, q) for name, q in self.questions.items()})

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return list(await asyncio.gather(*(self._score(prompt, candidate, model) for candidate in candidates)))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        rubric = cast("_Rubric", self.questions or {"question": self})
        placeholders = shown(prompt.question, candidate)
        state = prompts.fill(self.state, **placeholders)
        ask = self._ask_server if self.server else self._ask_model
        try:
            readings = await ask(rubric, state, placeholders, prompt, model)
        except DecisionError as error:
            return Score.unscored(f"{self.server}: {error}")
        details = {name: q.found(found) for (name, q), found in zip(rubric.items(), readings, strict=True)}
        if not self.questions:
            return Score(details["question"]["value"], details["question"]["answer"], details["question"])
        weights = [self.weights.get(name, 1.0) for name in rubric]
        reason = ", ".join(f"{name}: {found['answer']}" for name, found in details.items())
        return Score(
            float(np.average([found["value"] for found in details.values()], weights=weights)), reason, details
        )

    async def _ask_model(
        self, rubric: _Rubric, state: str, placeholders: Mapping[str, str], prompt: Prompt, model: Model
    ) -> list[list[Reading]]:
        """One prompt for each question and order of its options."""

        async def ask(question: LabelQuestion) -> list[Reading]:
            texts = [question.text(state, placeholders, order) for order in question.orders]
            asked = (read_labels(model, Prompt(text, prompt.images), question.labels) for text in texts)
            return list(await asyncio.gather(*asked))

        return list(await asyncio.gather(*map(ask, rubric.values())))

    async def _ask_server(
        self, rubric: _Rubric, state: str, placeholders: Mapping[str, str], prompt: Prompt, model: Model
    ) -> list[list[Reading]]:
        """One request for all; a question in another order is a question of its own."""
        asked = {f"{name}-{n}": (q, order) for name, q in rubric.items() for n, order in enumerate(q.orders)}
        body: dict[str, Any] = {
            "state": state,
            "questions": {name: _as_decision(q, placeholders, order) for name, (q, order) in asked.items()},
        }
        if self.server_model:
            body["model"] = self.server_model
        if prompt.images:
            body["images"] = [data_url(picture) for picture in prompt.images]
        reply = await decide(self.server, body, retries=self.retries, timeout=self.timeout, charge=model.charge)
        return [
            [reading_of(reply, f"{name}-{n}", _keys(q, order)) for n, order in enumerate(q.orders)]
            for name, q in rubric.items()
        ]


def _as_decision(question: LabelQuestion, placeholders: Mapping[str, str], order: Sequence[int]) -> dict[str, Any]:
    """A question as servers take it."""
    asked = {"type": _TYPES[question.kind], "instructions": prompts.fill(question.instructions, **placeholders)}
    if question.kind == "yes-no":
        return asked
    options = [question.options[i] for i in order]
    return {**asked, "criteria": options if question.kind == "score" else dict.fromkeys(options)}


def _keys(question: LabelQuestion, order: Sequence[int]) -> Sequence[str]:
    """What a server's answer calls the probabilities, in the order in which the options were shown."""
    return [question.answers[i] for i in order] if question.kind == "choice" else question.labels


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
