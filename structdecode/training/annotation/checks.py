"""Whether an answer may become training data: its form, then what it concludes, then what a verifier says.

A check gives a `Problem` or nothing. Its message is what the annotating model is told before it tries again, and what
``rejected.jsonl`` says where it does not get it right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from structdecode import matching
from structdecode.backends.openai.requests import Reply
from structdecode.core import tags
from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter
from structdecode.core.decoder import MeteredDecoder
from structdecode.core.lifetimes import lifetimes
from structdecode.core.problems import BadRow, shown
from structdecode.core.protocols import Backend, Verifier
from structdecode.core.reading import cut, one_line
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Prompt, Schema
from structdecode.matching.declined import declined
from structdecode.matching.types import Match, Question
from structdecode.training.annotation.session import ApiBackend
from structdecode.training.conversations import read_answer

_CLOSED = ("choice", "number", "yes-no")
"""Kinds of answer of which a rule that found one knows whether it is wrong, too."""

_LEAK = re.compile(
    r"\b(?:standard|reference) answers?\b|\b(?:given|provided) answer\b(?! (?:choice|option))", re.IGNORECASE
)


_LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Problem:
    """Why an answer cannot be used: a name for counting, and a sentence."""

    name: str
    message: str

    def __post_init__(self) -> None:
        """A message quotes what a model or server wrote: in one line, without control characters, and cut."""
        object.__setattr__(self, "message", cut(one_line(self.message), _LONGEST_MESSAGE))


def form(reply: Reply, question: Question, *, with_image: bool) -> Problem | dict[str, str]:
    """The text of each stage by name, if all tags are there, in order, closed, filled and with nothing outside.

    The stages are those of `LLAVA_O1`, read as ``structdecode data check`` does; without a picture CAPTION may be absent.
    """
    if reply.refusal or reply.finish == "content_filter":
        return Problem("refused", f"the model refused: {reply.refusal or 'content filter'}"[:300])
    if reply.finish == "length":
        return Problem("cut-off", f"it is cut off after {reply.completion_tokens} tokens: be shorter")
    if not reply.text.strip():
        return Problem("empty-answer", "it is empty")
    try:
        stages = read_answer(reply.text, LLAVA_O1, with_image=with_image)
    except BadRow as bad:
        given_up = declined(reply.text) if "<" not in reply.text else None
        return Problem(given_up.status if given_up is not None else bad.problem, str(bad))
    leak = next((found for text in stages.values() if (found := _LEAK.search(text))), None)
    if leak is not None and leak[0].lower() not in question.text.lower():
        return Problem("leak", f'it says "{leak[0]}": nothing may show that an answer was given')
    return stages


@dataclass(frozen=True)
class AnswerCheck:
    """Compares a CONCLUSION with the standard answer: by rule, and by a judge model where no rule can tell.

    Attributes:
        judge: None accepts only what a rule accepts.
    """

    judge: matching.LLMJudge | None = field(default_factory=matching.LLMJudge)

    async def problem(self, conclusion: str, question: Question, api: ApiBackend, seed: tuple[int, str]) -> str | None:
        """What is wrong with it. What happens to the judge's request is raised as it is."""
        found = matching.match(conclusion, question)
        if not found.correct and self.judge is not None and not decided(found, question):
            async with (
                api.open(Prompt(question.text)) as session,
                MeteredModel(session, Meter(Budget()), seed) as model,
            ):
                found = await self.judge.match(conclusion, question, model)
        if found.correct:
            return None
        standard = " / ".join(question.answers)
        return f"its CONCLUSION {shown(conclusion, 200)} does not agree with {shown(standard, 200)} ({found.rule})"


def decided(found: Match, question: Question) -> bool:
    """Whether the rules know that an answer is wrong: one of the question's closed kind was found, and differs."""
    return found.status == "answered" and bool(found.extracted) and matching.kind_of(question) in _CLOSED


@dataclass(frozen=True)
class Filter:
    """A verifier that has the last word.

    Attributes:
        least: answers that score less are not used; unscored ones neither.
        backend: the model that the verifier may ask; None: the judge model behind the API.
    """

    verifier: Verifier
    name: str
    least: float
    backend: Backend | None = None

    async def problem(
        self, prompt: Prompt, stages: Mapping[str, str], api: ApiBackend, seed: tuple[int, str]
    ) -> Problem | None:
        """What is wrong with an answer. What happens to the verifier's requests is raised as it is."""
        schema = _of_stages(stages)
        spans = tags.parse(schema, assembled(stages))
        candidate = Candidate(spans, tuple(0 for _ in spans))
        backend: Backend = self.backend or api
        async with lifetimes() as open_verifiers, backend.open(prompt) as session:
            trace = Trace({})
            decoder = MeteredDecoder(prompt, schema, session, Meter(Budget()), trace, seed, None, open_verifiers)
            score = (await decoder.score(self.verifier, [candidate]))[0]
        if api.failure is not None:
            raise api.failure
        if trace.failures:
            return Problem("verifier-failed", cut(one_line(score.reason), 200))
        if score.value is None:
            return Problem("unscored", f"{self.name} gives it no score: {shown(score.reason, 200)}")
        if not score.reaches(self.least):
            reason = f": {shown(score.reason, 200)}" if score.reason else ""
            return Problem("low-score", f"{self.name} gives it {score.value:.4g}, less than {self.least:g}{reason}")
        return None


def _of_stages(stages: Mapping[str, str]) -> Schema:
    return Schema(LLAVA_O1.name, tuple(stage for stage in LLAVA_O1.stages if stage.name in stages))


def assembled(stages: Mapping[str, str]) -> str:
    """An answer in the form in which it is trained on and decoded: a blank line between stages."""
    parts = (f"{s.begin} {stages[s.name]} {s.end}" for s in LLAVA_O1.stages if s.name in stages)
    return LLAVA_O1.separator.join(parts)
