"""The API as a `Backend`, so that the project's judge and verifiers ask it through the doors that they know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from structdecode.backends.openai.requests import ChatMessage, Request
from structdecode.core.budget import Usage
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import UNMETERED, Account, GenerationRequest, Row, Session, Work
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.training.annotation.client import ChatClient


@dataclass
class ApiBackend:
    """Opens sessions in which a verifier may ask the judge model for whole replies.

    A verifier's errors are caught at its border and become unscored candidates. What happened to a request is not
    the verifier's error: it is kept in ``failure``, for the caller to raise again.
    """

    client: ChatClient
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    failure: Exception | None = None

    @property
    def name(self) -> str:
        return self.model

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return _open(self, prompt)


@asynccontextmanager
async def _open(backend: ApiBackend, prompt: Prompt) -> AsyncIterator[Session]:
    yield _ApiSession(backend, prompt)


class _ApiSession:
    def __init__(self, backend: ApiBackend, prompt: Prompt) -> None:
        self.backend, self.prompt = backend, prompt

    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        spans, sent, written = [], 0, 0
        for row in rows:
            question = Request(
                self.backend.model, _messages(self.prompt), row.max_tokens, "check", request.sampling.temperature,
                row.seed & 0x7FFFFFFF, self.backend.extra,  # 31 bits: servers differ in how many they take
            )  # fmt: skip
            account.charge(Usage(model_calls=1))
            try:
                reply = await self.backend.client.ask(question)
            except Exception as error:
                self.backend.failure = error
                raise
            ends = [reply.text.index(stop) for stop in request.stops if stop and stop in reply.text]
            text = reply.text[: min(ends)] if ends else reply.text
            spans.append(Span(request.stage.name, text.strip(), raw=reply.text, seed=row.seed))
            account.charge(Usage(generated_tokens=reply.completion_tokens, prefilled_tokens=reply.prompt_tokens))
            sent, written = sent + reply.prompt_tokens, written + reply.completion_tokens
        return Work(spans, Usage(generated_tokens=written, prefilled_tokens=sent, model_calls=len(rows)))

    async def force(self, *_: Any, **options: Any) -> NoReturn:
        self._no_log_probs()

    async def next_tokens(self, *_: Any, **options: Any) -> NoReturn:
        self._no_log_probs()

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        self._no_log_probs()

    def _no_log_probs(self) -> NoReturn:
        error = ConfigError("this verifier wants log-probabilities, which no chat API gives: add --verifier-model")
        self.backend.failure = error
        raise error

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return _open(self.backend, prompt)

    @property
    def resolution(self) -> float:
        return 0.0

    def release(self, candidates: Sequence[Candidate]) -> None:
        pass


def _messages(prompt: Prompt) -> tuple[ChatMessage, ...]:
    """A prompt as a chat: the pictures in the first user message."""
    turns = [(m.role, m.text) for m in prompt.history] + [("user", prompt.question)]
    first = next(at for at, (role, _) in enumerate(turns) if role == "user")
    pictures = prompt.images
    messages = [ChatMessage(role, text) for role, text in turns]
    if pictures:
        role, text = turns[first]
        messages[first] = ChatMessage(role, text, pictures, " ".join(picture.digest for picture in pictures))
    return tuple(messages)
