"""What a verifier is handed: the engine's side of `Model`, where every question is metered and seeded."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from structdecode.core import seeds
from structdecode.core.asked import AskedModel, KeptSessions
from structdecode.core.border import check_counts
from structdecode.core.budget import Meter, Usage
from structdecode.core.errors import ConfigError, NoModelError
from structdecode.core.protocols import Backend, ForcedText, GenerationRequest, Row, Session
from structdecode.core.types import Candidate, Prompt, Sampling, Span, Stage

T = TypeVar("T")

MOST_ROWS = 1_000_000
"""Continuations that one call may ask for, each."""


def check_rows(n: Any, name: str = "n") -> None:
    """Raises `ConfigError` unless ``n`` continuations can be asked for."""
    if not isinstance(n, int) or not 1 <= n <= MOST_ROWS:
        raise ConfigError(f"{name} must be a whole number from 1 to {MOST_ROWS:,}, not {n!r}")


class OpenCalls:
    """Calls of the model that are under way, so that none goes on when who asked for it is gone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def stop(self) -> None:
        """Cancels them and waits until they have ended."""
        open_ = list(self._tasks)
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)


class MeteredModel:
    """`Model` over a session: a verifier's questions, charged to the verifier. As a context it leaves none open.

    Args:
        session: None where there is no model but those that verifiers bring.
        kept: what the search keeps open until it ends; None: it ends with this context.
    """

    def __init__(
        self, session: Session | None, meter: Meter, seed: tuple[int, str], kept: KeptSessions | None = None
    ) -> None:
        self._meter, self._seed, self._calls = meter, seed, OpenCalls()
        self._kept = kept or KeptSessions()
        self._ends_with_this = kept is None
        self._asked = None if session is None else self._kept.of_search(session)

    async def __aenter__(self) -> MeteredModel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._calls.stop()
        if self._ends_with_this:
            await self._kept.close()

    @property
    def asked(self) -> AskedModel:
        """The model that questions go to.

        Raises:
            NoModelError: there is none.
        """
        if self._asked is None:
            raise NoModelError("there is no model to ask but a verifier's own")
        return self._asked

    @property
    def resolution(self) -> float:
        return 0.0 if self._asked is None else self._asked.resolution

    def on(self, backend: Backend) -> MeteredModel:
        other = copy.copy(self)
        other._asked = self._kept.of(backend)
        return other

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        check_rows(n)
        digests = [picture.digest for picture in prompt.images]
        with self._meter.call("verifier", n, sampling.max_tokens, self.asked.flops(prompt)) as call:
            rows = [
                Row(Candidate(), seeds.derive(*self._seed, "verifier", prompt.question, digests, i), limit)
                for i, limit in enumerate(call.limits)
                if limit > 0
            ]
            request = GenerationRequest(Stage("REPLY"), sampling, stops=stop, deadline=self._meter.deadline)

            async def ask() -> list[Span]:
                async with self.asked.open(prompt) as session:
                    return (await session.extend(rows, request, account=call)).value

            return await self._calls.run(ask())

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        with self._meter.call("verifier", flops=self.asked.flops(prompt)) as call:

            async def ask() -> list[list[float]]:
                async with self.asked.open(prompt) as session:
                    return (await session.log_probs(continuations, account=call)).value

            return await self._calls.run(ask())

    async def read(
        self, prompt: Prompt, answers: Sequence[Sequence[ForcedText]], *, hidden_layers: Sequence[int] = ()
    ) -> list[list[Span]]:
        reader = await self.asked.reader(prompt, hidden_layers)
        async with reader.lock:
            for length in range(1, max(map(len, answers), default=0) + 1):
                new = reader.unread(answers, length)
                if new:
                    with self._meter.call("verifier", flops=self.asked.flops(prompt)) as call:
                        await self._calls.run(reader.read(new, call))
            reader.keep(answers)
            return [reader.spans(answer) for answer in answers]

    def charge(self, usage: Usage) -> None:
        check_counts(usage, Usage)
        self._meter.spend(usage, "verifier")
