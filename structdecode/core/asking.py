"""What a verifier is handed: the engine's side of `Model`, where every question is metered and seeded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from structdecode.core import seeds
from structdecode.core.border import check_counts
from structdecode.core.budget import Meter, Usage
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import GenerationRequest, Row, Session
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
    """`Model` over a session: a verifier's questions, charged to the verifier. As a context it leaves none open."""

    def __init__(self, session: Session, meter: Meter, seed: tuple[int, str]) -> None:
        self._session, self._meter, self._seed = session, meter, seed
        self._calls = OpenCalls()

    async def __aenter__(self) -> MeteredModel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._calls.stop()

    @property
    def resolution(self) -> float:
        return self._session.resolution

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        check_rows(n)
        digests = [picture.digest for picture in prompt.images]
        with self._meter.call("verifier", n, sampling.max_tokens) as call:
            rows = [
                Row(Candidate(), seeds.derive(*self._seed, "verifier", prompt.question, digests, i), limit)
                for i, limit in enumerate(call.limits)
                if limit > 0
            ]
            request = GenerationRequest(Stage("REPLY"), sampling, stops=stop, deadline=self._meter.deadline)

            async def ask() -> list[Span]:
                async with self._session.open(prompt) as session:
                    return (await session.extend(rows, request, account=call)).value

            return await self._calls.run(ask())

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        with self._meter.call("verifier") as call:

            async def ask() -> list[list[float]]:
                async with self._session.open(prompt) as session:
                    return (await session.log_probs(continuations, account=call)).value

            return await self._calls.run(ask())

    def charge(self, usage: Usage) -> None:
        check_counts(usage, Usage)
        self._meter.spend(usage, "verifier")
