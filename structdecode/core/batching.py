"""One batch for what many searches ask at once: for verifiers that run a model of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from structdecode.core.border import ForeignExitError, said

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Waiting(Generic[T, R]):
    """An item whose turn has not come, and where its result goes."""

    item: T
    size: int
    kind: Hashable
    answer: asyncio.Future[R]


class Batcher(Generic[T, R]):
    """``await batcher(item)`` is the item's result, worked out together with whatever else was asked meanwhile.

    A batch begins at once where none is being worked on; what is asked while it is makes the next one. So nobody waits
    for company, and the more is asked at once the larger the batches are. Each event loop has batches of its own.

    Args:
        work: what is asked -> a result each, in order; it runs in a thread, one batch after another, of all loops. An
            exception in the place of a result is raised where that item was asked for. If all of it fails, each item of
            the batch is tried alone: one that cannot be done harms no other.
        size: an item's share of a batch. most: what the shares of a batch may add up to; an item that is larger is a
            batch by itself.
        kind: items share a batch if theirs are equal.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Sequence[R | Exception]],
        *,
        size: Callable[[T], int] = lambda item: 1,
        most: int = 64,
        kind: Callable[[T], Hashable] = lambda item: None,
    ) -> None:
        self._work, self._size, self._most, self._kind = work, size, most, kind
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Waiting[T, R]]] = WeakKeyDictionary()
        self._drains: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    async def __call__(self, item: T) -> R:
        """Raises what the work raises for the item. Who is cancelled before the work on the batch begins is not in it."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[T, R](item, self._size(item), self._kind(item), loop.create_future())
        with self._lock:  # of the two dictionaries, which belong to all loops
            queue = self._queues.setdefault(loop, [])
            queue.append(waiting)
            if loop not in self._drains:
                self._drains[loop] = asyncio.ensure_future(self._drain(loop, queue))
        return await waiting.answer

    async def _drain(self, loop: asyncio.AbstractEventLoop, queue: list[_Waiting[T, R]]) -> None:
        """Batch after batch until nothing waits."""
        try:
            await asyncio.sleep(0)  # whoever is about to ask in this turn of the loop is in the first batch
            while batch := self._next_batch(queue):
                await self._answer(batch)
        finally:
            with self._lock:
                del self._drains[loop]
            for waiting in queue:  # only where the loop itself is being ended
                waiting.answer.cancel()
            queue.clear()

    def _next_batch(self, queue: list[_Waiting[T, R]]) -> list[_Waiting[T, R]]:
        """The oldest, and those behind it that can go with it; they are taken off the queue."""
        queue[:] = [waiting for waiting in queue if not waiting.answer.done()]
        batch: list[_Waiting[T, R]] = []
        left: list[_Waiting[T, R]] = []
        room = self._most
        for waiting in queue:
            if not batch or (waiting.size <= room and waiting.kind == batch[0].kind):
                batch.append(waiting)
                room -= waiting.size
            else:
                left.append(waiting)
        queue[:] = left
        return batch

    async def _answer(self, batch: list[_Waiting[T, R]]) -> None:
        try:
            results = await asyncio.to_thread(self._in_turn, batch)
        except Exception as error:
            if len(batch) > 1:
                for waiting in batch:
                    await self._answer([waiting])
                return
            results = [(batch[0], error)]
        for waiting, result in results:
            if waiting.answer.done():
                continue  # given up meanwhile
            if isinstance(result, Exception):
                waiting.answer.set_exception(_raisable(result))
            else:
                waiting.answer.set_result(result)

    def _in_turn(self, batch: list[_Waiting[T, R]]) -> list[tuple[_Waiting[T, R], R | Exception]]:
        with self._turn:
            wanted = [waiting for waiting in batch if not waiting.answer.done()]
            results = self._worked_out([waiting.item for waiting in wanted]) if wanted else []
        return list(zip(wanted, results, strict=True))

    def _worked_out(self, items: list[T]) -> list[R | Exception]:
        try:
            results = list(self._work(items))
        except Exception as error:
            raise _raisable(error) from error
        except BaseException as error:  # would end the event loop, and all who wait with it
            raise ForeignExitError(said(error)) from None
        if len(results) != len(items):
            raise ValueError(f"{len(items)} items, but {len(results)} results")
        return results


def _raisable(error: Exception) -> Exception:
    """A future takes no StopIteration."""
    return RuntimeError(f"StopIteration: {error}") if isinstance(error, StopIteration) else error
