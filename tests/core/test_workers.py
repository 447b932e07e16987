"""The driver: lazy, bounded, in any order, and over when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from structdecode.core.engine import run_sync
from structdecode.core.errors import ConfigError
from structdecode.core.workers import MOST_AT_ONCE, as_done


async def collected(items: Any, work: Any, concurrency: int) -> list[tuple[int, Any]]:
    return [pair async for pair in as_done(items, work, concurrency)]


async def doubled(n: int) -> int:
    await asyncio.sleep(0.01 / (n + 1))
    return 2 * n


def test_every_item_is_worked_on_once_and_results_come_as_they_are_done() -> None:
    found = run_sync(collected(range(20), doubled, 7))
    assert sorted(found) == [(n, 2 * n) for n in range(20)]
    assert found != sorted(found)
    assert run_sync(collected([], doubled, 3)) == []


def test_an_async_iterator_will_do() -> None:
    async def items() -> AsyncIterator[int]:
        for n in range(5):
            await asyncio.sleep(0)
            yield n

    assert sorted(run_sync(collected(items(), doubled, 2))) == [(n, 2 * n) for n in range(5)]


@pytest.mark.parametrize("concurrency", [1, 3, MOST_AT_ONCE])
def test_no_more_are_at_work_than_asked_for_and_no_more_workers_than_items(concurrency: int) -> None:
    expected, at_work, most = min(concurrency, 10), 0, 0
    full = asyncio.Event()

    async def work(n: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if at_work == expected:
            full.set()
        await asyncio.wait_for(full.wait(), 60)
        at_work -= 1
        return len(asyncio.all_tasks())

    tasks = [count for _, count in run_sync(collected(range(10), work, concurrency))]
    assert most == expected and max(tasks) <= 2 * 10 + 4  # `wait_for` may have a task of its own


def test_items_are_taken_when_there_is_room() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    async def some() -> int:
        async with aclosing(as_done(endless(), doubled, 4)) as results:
            async for _ in results:
                await asyncio.sleep(0.05)
                return len(taken)
        return 0

    assert run_sync(some()) <= 2 * 4 + 1


def test_an_iterator_may_look_at_what_came_of_the_items_before() -> None:
    done: list[int] = []

    def until_three() -> Iterator[int]:
        for n in range(100):
            if len(done) >= 3:
                return
            yield n

    async def work(n: int) -> None:
        done.append(n)

    run_sync(collected(until_three(), work, 1))
    assert done == [0, 1, 2]


@pytest.mark.parametrize("where", ["work", "items"])
def test_the_first_exception_ends_all_and_cancels_the_rest(where: str) -> None:
    cancelled: list[int] = []

    def items() -> Iterator[int]:
        yield from range(3)
        if where == "items":
            raise RuntimeError("no more")

    async def work(n: int) -> int:
        if where == "work" and n == 2:
            raise RuntimeError("no more")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    with pytest.raises(RuntimeError, match="no more"):
        run_sync(collected(items(), work, 8))
    assert set(cancelled) >= {0, 1}


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "4", None, MOST_AT_ONCE + 1])
def test_what_is_no_concurrency_is_refused(wrong: Any) -> None:
    with pytest.raises(
        ConfigError, match=f"concurrency must be a whole number from 1 to {MOST_AT_ONCE:,}, not {wrong!r}"
    ):
        run_sync(collected([1], doubled, wrong))
