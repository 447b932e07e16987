"""A backend that keeps what is asked of another one, and what came of it, for a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import UNMETERED, Account, Backend, ForcedText, GenerationRequest, Row, Session, Work
from structdecode.core.types import Candidate, NextToken, Prompt, Span
from structdecode.pools.tape import Tape, forced_row, prompt_key, text_key, written_row


@dataclass(frozen=True)
class RecordingBackend:
    """Another backend, of which every search's calls are kept.

    Attributes:
        keep: takes a search's tape when the search has ended, however it ended. question, cell: what it is labelled with.
    """

    backend: Backend
    keep: Callable[[Tape], None]
    question: str = ""
    cell: str = ""

    @property
    def name(self) -> str:
        return self.backend.name

    def __getattr__(self, name: str) -> Any:
        """What else the backend has (its model, its engine, its costs)."""
        if name == "backend":
            raise AttributeError(name)
        return getattr(self.backend, name)

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self._open(prompt)

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[Session]:
        async with self.backend.open(prompt) as session:
            tape = Tape(prompt_key(prompt), session.resolution, self.question, self.cell)
            try:
                yield RecordingSession(session, prompt, tape)
            finally:
                if not tape.empty:
                    self.keep(tape)


class RecordingSession:
    """See `structdecode.core.protocols.Session`. A call that does not end in order is not kept."""

    def __init__(self, session: Session, prompt: Prompt, tape: Tape) -> None:
        self._session, self._tape, self._key = session, tape, prompt_key(prompt)

    @property
    def resolution(self) -> float:
        return self._session.resolution

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        with self._prompt_noted():
            work = await self._session.extend(rows, request, account=account)
        if not request.processors:
            written = [written_row(self._key, row, request, span) for row, span in zip(rows, work.value, strict=True)]
            if sum(row.drawn for row in written) == work.usage.generated_tokens and not request.deadline_passed:
                self._tape.rows += written
        return work

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        with self._prompt_noted():
            work = await self._session.force(prefixes, texts, request, account=account)
        self._tape.rows += [
            forced_row(self._key, prefix, text, request, span)
            for prefix, text, span in zip(prefixes, texts, work.value, strict=True)
        ]
        return work

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        return await self._session.next_tokens(prefixes, request, k, account=account)  # not kept

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        with self._prompt_noted():
            work = await self._session.log_probs(continuations, account=account)
        self._tape.texts.update(
            (text_key(self._key, text), found) for text, found in zip(continuations, work.value, strict=True)
        )
        return work

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self._open(prompt)

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[Session]:
        async with self._session.open(prompt) as session:
            yield RecordingSession(session, prompt, self._tape)

    def release(self, candidates: Sequence[Candidate]) -> None:
        self._session.release(candidates)

    @contextmanager
    def _prompt_noted(self) -> Iterator[None]:
        """Keeps the prompt's tokens, of a call that a budget refused, too."""
        try:
            yield
        finally:
            tokens = getattr(self._session, "prompt_tokens", None)
            if tokens is not None:
                self._tape.prompts.setdefault(self._key, tokens)
        if tokens is None:
            raise ConfigError(
                f"searches of {type(self._session).__name__} cannot be recorded: it does not say its prompt's tokens "
                "(Session.prompt_tokens), without which nobody can tell what a replay costs"
            )
