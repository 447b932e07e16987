"""One record: ask for each turn's answer, check it, say what is wrong and ask again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from structdecode.backends.openai.errors import BadRequest
from structdecode.backends.openai.requests import ChatMessage, Request
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Message as Said
from structdecode.core.types import Prompt, Schema
from structdecode.training.annotation import prompts
from structdecode.training.annotation.checks import AnswerCheck, Filter, Problem, assembled, form
from structdecode.training.annotation.client import ChatClient
from structdecode.training.annotation.session import ApiBackend
from structdecode.training.annotation.sources import Item, Turn

_FINAL = ("bad-request", "unscored", "verifier-failed")
"""Problems that another answer would not solve: none is paid for."""


@dataclass(frozen=True)
class Accepted:
    """A line of ``train.jsonl``."""

    record: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """A record without a usable answer: which turn (from 1), the last problem, after how many attempts, the last text."""

    turn: int
    problem: Problem
    attempts: int
    text: str = ""


@dataclass(frozen=True)
class Annotator:
    """How records are annotated.

    Attributes:
        model, judge_model: names that the API knows. retries: attempts behind the first, each told what was wrong.
        max_tokens: of an answer. temperature: None leaves it to the server.
        extra: more fields of each request's body. seed: of what the judge and verifiers draw.
    """

    client: ChatClient
    model: str
    judge_model: str
    answers: AnswerCheck = field(default_factory=AnswerCheck)
    filter: Filter | None = None
    retries: int = 2
    max_tokens: int = 2048
    temperature: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    async def annotate(self, item: Item) -> Accepted | Refused:
        """The record with its answers, or why it has none. Depends on the item and the model's replies alone.

        Raises:
            Stopped, Unanswered, ApiError: see `Client.ask`; the record is undecided then.
        """
        chat = self.opening(item)
        said: list[Said] = []
        turns: list[dict[str, str]] = []
        for number, turn in enumerate(item.turns, start=1):
            chat.append(self.asking(item, number - 1))
            answer = await self._turn(item, number, turn, chat, said)
            if isinstance(answer, Refused):
                return answer
            chat.append(ChatMessage("assistant", answer))
            said += [Said("user", turn.question.text), Said("assistant", answer)]
            turns += [{"from": "human", "value": turn.asked}, {"from": "gpt", "value": answer}]
        image = {} if item.image is None else {"image": item.image}
        return Accepted({"id": item.id, **image, "conversations": turns})

    def opening(self, item: Item) -> list[ChatMessage]:
        """What every chat about an item begins with."""
        return [ChatMessage("system", prompts.system(_schema(item)))]

    def asking(self, item: Item, at: int) -> ChatMessage:
        """The user's message of a turn, from 0; the picture is in the first."""
        turn = item.turns[at]
        pictures = () if at > 0 or item.picture is None else (item.picture,)
        return ChatMessage("user", prompts.task(turn.question, turn.hint), pictures, item.digest if pictures else "")

    async def _turn(
        self, item: Item, number: int, turn: Turn, chat: Sequence[ChatMessage], said: Sequence[Said]
    ) -> str | Refused:
        """A turn's answer as it is trained on. Failed attempts are in its own chat, not in the turns behind it."""
        messages = tuple(chat)
        attempt = 0
        while True:
            attempt += 1
            request = Request(self.model, messages, self.max_tokens, "answer", self.temperature, extra=self.extra)
            try:
                reply = await self.client.ask(request)
            except BadRequest as error:
                return Refused(number, Problem("bad-request", str(error)), attempt)
            found = form(reply, turn.question, with_image=item.image is not None)
            if isinstance(found, Problem):
                problem = found
            else:
                wrong = await self._content(item, number, turn, found, said)
                if wrong is None:
                    return assembled(found)
                problem = wrong
            if attempt > self.retries or problem.name in _FINAL:
                return Refused(number, problem, attempt, reply.text or reply.refusal)
            told = ChatMessage("user", prompts.feedback(problem.message))
            messages += (ChatMessage("assistant", reply.text or "(nothing)"), told)

    async def _content(
        self, item: Item, number: int, turn: Turn, stages: Mapping[str, str], said: Sequence[Said]
    ) -> Problem | None:
        api = ApiBackend(self.client, self.judge_model, self.extra)
        seed = (self.seed, f"{item.id}/{number}")
        try:
            wrong = await self.answers.problem(stages["CONCLUSION"], turn.question, api, seed)
            if wrong is not None:
                return Problem("wrong-answer", wrong)
            if self.filter is None:
                return None
            images = [item.picture] if item.picture is not None else []
            return await self.filter.problem(Prompt(turn.question.text, images, said), stages, api, seed)
        except BadRequest as error:
            return Problem("bad-request", str(error))


def _schema(item: Item) -> Schema:
    """The stages that an item's answers have: none that needs a picture where there is none."""
    stages = tuple(stage for stage in LLAVA_O1.stages if item.image is not None or not stage.needs_image)
    return Schema(LLAVA_O1.name, stages)
