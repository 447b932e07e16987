"""Many prompts at once, taken as they are needed: one driver for whatever asks more than one question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from structdecode.core import seeds
from structdecode.core.budget import Budget
from structdecode.core.engine import adecode
from structdecode.core.errors import ConfigError, ImageError, PromptError
from structdecode.core.protocols import Backend, Strategy
from structdecode.core.results import Result, unasked
from structdecode.core.types import Prompt, Schema

MOST_AT_ONCE = 100_000
"""Questions that may be open at once."""


@dataclass(frozen=True)
class Task:
    """A prompt with settings of its own; what is None is as `decode_many` was told."""

    prompt: Prompt | str
    sample_id: str | None = None
    strategy: Strategy | str | None = None
    schema: Schema | str | None = None
    budget: Budget | Mapping[str, float] | None = None
    seed: int | None = None


async def decode_many(
    prompts: Iterable[Prompt | str | Task] | AsyncIterable[Prompt | str | Task],
    *,
    backend: Backend,
    sample_ids: Iterable[object] | None = None,
    concurrency: int = 32,
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    seed: int = 0,
    verifier_timeout: float | None = None,
) -> AsyncGenerator[tuple[int, Result], None]:
    """Decodes many prompts at once; yields ``(index, result)`` as they finish. Whoever stops listening stops the rest.

    A result does not depend on the others: the sample id (default: the index) is part of every seed. A prompt that cannot
    be asked (it is no `Prompt`, or does not fit into the context) has a result without an answer that says why (`Result.error`).

    Args:
        prompts: taken one by one when there is room, from a generator of any length too, no more than ``2 * concurrency``
            ahead of who listens.
        sample_ids: one for each prompt.
        strategy, schema, budget, seed, verifier_timeout: as in `adecode`, for what is no `Task` that says otherwise.

    Raises:
        StructdecodeError: a setting is wrong; or there are fewer sample ids than prompts.
    """
    if not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_AT_ONCE:
        raise ConfigError(f"concurrency must be a whole number from 1 to {MOST_AT_ONCE:,}, not {concurrency!r}")
    seed = seeds.checked(seed)
    tasks = _numbered(prompts, sample_ids)
    turn, results = asyncio.Lock(), asyncio.Queue[tuple[int, Result]](concurrency)

    async def answered(task: Task) -> Result:
        own_seed = seed if task.seed is None else seeds.checked(task.seed)
        try:
            return await adecode(
                task.prompt, backend=backend, strategy=task.strategy or strategy, schema=task.schema or schema,
                budget=budget if task.budget is None else task.budget, seed=own_seed, sample_id=str(task.sample_id),
                verifier_timeout=verifier_timeout,
            )  # fmt: skip
        except (PromptError, ImageError) as error:
            return unasked(task.prompt, str(task.sample_id), own_seed, str(error))

    async def work() -> None:
        while True:
            async with turn:
                try:
                    index, task = await anext(tasks)
                except StopAsyncIteration:
                    return
            await results.put((index, await answered(task)))

    most = min(concurrency, len(prompts)) if isinstance(prompts, list | tuple) else concurrency
    workers = [asyncio.ensure_future(work()) for _ in range(most)]
    ended: asyncio.Future[Any] = asyncio.gather(*workers)
    try:
        while not (ended.done() and results.empty()):
            waiting = asyncio.ensure_future(results.get())
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
                if ended.exception() is not None:
                    break
        ended.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, ended, return_exceptions=True)


async def _numbered(
    prompts: Iterable[Any] | AsyncIterable[Any], sample_ids: Iterable[object] | None
) -> AsyncIterator[tuple[int, Task]]:
    ids = None if sample_ids is None else iter(sample_ids)
    index = 0
    async for item in _each(prompts):
        task = item if isinstance(item, Task) else Task(item)
        if task.sample_id is None:
            sample_id = index if ids is None else next(ids, None)
            if sample_id is None:
                raise ConfigError(f"there are more prompts than sample ids ({index})")
            task = replace(task, sample_id=str(sample_id))
        yield index, task
        index += 1


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
