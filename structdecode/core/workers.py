"""One driver for whatever asks more than one question: items are taken as there is room, results come as they are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from structdecode.core.errors import ConfigError
from structdecode.core.reading import short_repr

T = TypeVar("T")
R = TypeVar("R")

MOST_AT_ONCE = 100_000
"""Items that may be worked on at once."""


def check_concurrency(concurrency: object) -> None:
    """Raises `ConfigError` unless it is a whole number from 1 to `MOST_AT_ONCE`."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 1 <= concurrency <= MOST_AT_ONCE:
        raise ConfigError(
            f"concurrency must be a whole number from 1 to {MOST_AT_ONCE:,}, not {short_repr(concurrency)}"
        )


async def as_done(
    items: Iterable[T] | AsyncIterable[T], work: Callable[[T], Awaitable[R]], concurrency: int
) -> AsyncGenerator[tuple[int, R], None]:
    """``(index, what work made of the item)`` as they finish, up to ``concurrency`` at a time.

    Items are taken one by one when there is room, no more than ``2 * concurrency`` ahead of who listens; an iterator may
    end early, or look at what came of the items before. The first exception of an item's or the iterator's ends all;
    whoever stops listening (``contextlib.aclosing``) stops the rest.

    Raises:
        ConfigError: the concurrency is none. Exception: what ``work`` or the iterator raises.
    """
    check_concurrency(concurrency)
    source, turn = numbered(items), asyncio.Lock()
    results = asyncio.Queue[tuple[int, R]](concurrency)
    workers: list[asyncio.Task[None]] = []
    at_work = 0
    ended = asyncio.get_running_loop().create_future()

    async def worker() -> None:
        starts_another = len(workers) < concurrency
        while True:
            async with turn:
                try:
                    index, item = await anext(source)
                except StopAsyncIteration:
                    return
            if starts_another:  # as many as there are items, up to the most
                starts_another = False
                start()
            await results.put((index, await work(item)))

    def start() -> None:
        nonlocal at_work
        at_work += 1
        workers.append(asyncio.ensure_future(worker()))
        workers[-1].add_done_callback(finished)

    def finished(task: asyncio.Task[None]) -> None:
        nonlocal at_work
        at_work -= 1
        if not ended.done() and not task.cancelled() and (error := task.exception()) is not None:
            ended.set_exception(error)
        elif not ended.done() and at_work == 0:
            ended.set_result(None)

    start()
    try:
        while not (ended.done() and (results.empty() or ended.exception() is not None)):
            waiting = asyncio.ensure_future(results.get())
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
        ended.result()
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        ended.cancel()


async def numbered(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[tuple[int, T]]:
    """As `enumerate`, of an async iterable too."""
    index = 0
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield index, item
            index += 1
    else:
        for item in items:
            yield index, item
            index += 1
