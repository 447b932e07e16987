"""What many ask at once is worked out together, and one that cannot be done harms no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from structdecode.core.batching import Batcher
from structdecode.core.border import ForeignExitError

Batches = list[list[Any]]


class Doubling:
    """Doubles numbers, a batch at a time; keeps the batches. A gate holds the first one up until it is opened."""

    def __init__(self, fault: Callable[[Any], None] = lambda item: None) -> None:
        self.batches: Batches = []
        self.gate, self.begun = threading.Event(), threading.Event()
        self._fault = fault

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.begun.set()
        assert self.gate.wait(10)
        for item in items:
            self._fault(item)
        return [2 * item for item in items]


async def behind_the_first(work: Doubling, batcher: Batcher[Any, Any], items: list[Any]) -> list[Any]:
    """Asks for 0, and while that is worked on for all of the items."""
    first = asyncio.ensure_future(batcher(0))
    await asyncio.to_thread(work.begun.wait, 10)
    rest = [asyncio.ensure_future(batcher(item)) for item in items]
    await asyncio.sleep(0)
    work.gate.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def test_what_is_asked_meanwhile_is_the_next_batch() -> None:
    work = Doubling()
    assert asyncio.run(behind_the_first(work, Batcher(work), [1, 2, 3])) == [0, 2, 4, 6]
    assert work.batches == [[0], [1, 2, 3]]


def test_what_is_asked_at_once_is_one_batch() -> None:
    work = Doubling()
    work.gate.set()
    batcher = Batcher[int, int](work)

    async def asked() -> list[int]:
        return list(await asyncio.gather(*map(batcher, range(5))))

    assert asyncio.run(asked()) == [0, 2, 4, 6, 8] and work.batches == [[0, 1, 2, 3, 4]]
    assert asyncio.run(asked()) == [0, 2, 4, 6, 8], "another event loop"
    assert len(work.batches) == 2


def test_a_batch_has_a_size_and_a_kind() -> None:
    work = Doubling()
    batcher = Batcher[int, int](work, size=lambda item: item, most=6, kind=lambda item: item % 2)
    found = asyncio.run(behind_the_first(work, batcher, [1, 2, 3, 4, 9, 5]))
    assert found == [0, 2, 4, 6, 8, 18, 10]
    assert work.batches == [[0], [1, 3], [2, 4], [9], [5]], "the oldest first; one that is too large alone"


def test_who_has_given_up_is_not_in_the_batch() -> None:
    work = Doubling()
    batcher = Batcher[int, int](work)

    async def some_give_up() -> list[int]:
        first = asyncio.ensure_future(batcher(0))
        await asyncio.to_thread(work.begun.wait, 10)
        rest = [asyncio.ensure_future(batcher(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        rest[1].cancel()
        first.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        return list(await asyncio.gather(rest[0], rest[2]))

    assert asyncio.run(some_give_up()) == [2, 6] and work.batches == [[0], [1, 3]]


@pytest.mark.parametrize("others", [[1], [1, 3]])
def test_one_that_fails_harms_no_other(others: list[int]) -> None:
    def fault(item: int) -> None:
        if item == 2:
            raise MemoryError("two")

    work, items = Doubling(fault), sorted([2, *others])
    first, *found = asyncio.run(behind_the_first(work, Batcher(work), items))
    results = dict(zip(items, found, strict=True))
    assert first == 0 and str(results.pop(2)) == "two" and results == {item: 2 * item for item in others}
    assert work.batches == [[0], items, *([item] for item in items)]


def test_who_gives_up_during_the_work_takes_no_others_result() -> None:
    work = Doubling()
    batcher = Batcher[int, int](work)

    async def first_gives_up() -> list[int]:
        asked = [asyncio.ensure_future(batcher(item)) for item in (1, 2, 3)]
        await asyncio.to_thread(work.begun.wait, 10)
        asked[0].cancel()
        await asyncio.sleep(0)
        work.gate.set()
        return list(await asyncio.wait_for(asyncio.gather(*asked[1:]), 10))

    assert asyncio.run(first_gives_up()) == [4, 6] and work.batches == [[1, 2, 3]]


def test_an_exception_for_a_result_is_raised_where_it_was_asked_for() -> None:
    async def asked() -> list[Any]:
        batcher = Batcher[int, int](lambda items: [ValueError(item) if item == 1 else item for item in items])
        return await asyncio.gather(*map(batcher, range(3)), return_exceptions=True)

    found = asyncio.run(asked())
    assert found[::2] == [0, 2] and isinstance(found[1], ValueError)


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt])
def test_work_that_ends_the_process_ends_what_asked_alone(fault: type[BaseException]) -> None:
    def work(items: list[int]) -> list[int]:
        if 1 in items:
            raise fault
        return items

    async def asked() -> list[Any]:
        return await asyncio.gather(*map(Batcher[int, int](work), range(3)), return_exceptions=True)

    found = asyncio.run(asked())
    assert found[::2] == [0, 2] and isinstance(found[1], ForeignExitError) and fault.__name__ in str(found[1])


def test_too_few_results_are_an_error_not_a_hang() -> None:
    batcher = Batcher[int, int](lambda items: items[1:])
    with pytest.raises(ValueError, match="1 items, but 0 results"):
        asyncio.run(asyncio.wait_for(batcher(1), 10))


def test_who_gives_up_while_another_loop_works_is_not_worked_for() -> None:
    """Batches of all loops take turns; whoever is gone when the turn comes costs nothing."""
    work = Doubling()
    batcher = Batcher[int, int](work)
    other = threading.Thread(target=lambda: asyncio.run(batcher(0)))  # type: ignore[arg-type]
    other.start()
    assert work.begun.wait(10)

    async def gives_up() -> None:
        asked = [asyncio.ensure_future(batcher(item)) for item in (1, 2)]
        await asyncio.sleep(0.2)  # both are in the thread of their batch, whose turn it is not
        asked[0].cancel()
        work.gate.set()
        assert await asked[1] == 4

    asyncio.run(gives_up())
    other.join(10)
    assert work.batches == [[0], [2]]


@pytest.mark.parametrize("as_result", [True, False])
def test_stop_iteration_is_an_error_as_any_other(as_result: bool) -> None:
    def work(items: list[int]) -> list[Any]:
        if not as_result and 1 in items:
            next(iter(()))
        return [StopIteration("none") if item == 1 else item for item in items]

    async def asked() -> list[Any]:
        batcher = Batcher[int, Any](work)
        return await asyncio.wait_for(asyncio.gather(*map(batcher, range(3)), return_exceptions=True), 10)

    found = asyncio.run(asked())
    assert found[::2] == [0, 2] and isinstance(found[1], RuntimeError) and "StopIteration" in str(found[1])


def test_an_item_whose_size_is_not_known_is_its_askers_error() -> None:
    async def asked() -> list[Any]:
        batcher = Batcher[int, int](list, size=lambda item: 1 // (item - 1))
        return await asyncio.gather(*map(batcher, (3, 1, 2)), return_exceptions=True)

    found = asyncio.run(asked())
    assert found[::2] == [3, 2] and isinstance(found[1], ZeroDivisionError)
