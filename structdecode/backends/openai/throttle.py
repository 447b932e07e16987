"""How often and how many at once: requests to a chat API until they are answered.

A rate limit that one request meets holds back all of them for as long as the server says, and each waits with
exponential back-off and jitter behind that.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from structdecode.backends.openai.errors import RateLimited, RequestFailed, Stopped, Unanswered

T = TypeVar("T")

_LONGEST_WAIT = 60.0


class Throttle:
    """Common to all requests of one event loop to one server.

    Args:
        tries: of one request at errors of the server or the network (a rate limit may say no ten times as often).
    """

    def __init__(self, *, concurrency: int, tries: int) -> None:
        self.tries = tries
        self._slots = asyncio.Semaphore(concurrency)
        self._not_before = 0.0
        self._random = random.Random()  # jitter only: no result depends on it

    @property
    def waiting(self) -> float:
        """Seconds until a rate limit lets requests go again."""
        return max(0.0, self._not_before - time.monotonic())

    @asynccontextmanager
    async def turn(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """For one try: waits until there is room for it, and no rate limit.

        Raises:
            Stopped: ``stop`` was set.
        """
        async with self._slots:
            while self.waiting > 0:
                await _sleep(self.waiting + self._random.uniform(0, 0.05), stop)
            if stop.is_set():
                raise Stopped("stopped")
            yield

    async def answered(self, once: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """What ``once``, one try, comes to; tried again where it raises `RequestFailed` or ``ValueError``.

        Raises:
            Unanswered: it failed at every try. Stopped: ``stop`` was set. Exception: what else a try raised.
        """
        failures = limited = 0
        reason: Exception
        while True:
            try:
                return await once()
            except RateLimited as error:
                limited += 1
                reason = error
            except (RequestFailed, ValueError) as error:
                failures += 1
                reason = error
            wait: float | None = getattr(reason, "wait", None)
            if failures >= self.tries or limited >= 10 * self.tries or wait == math.inf:
                raise Unanswered(f"no answer after {failures + limited} tries ({reason})")
            await self._back_off(failures + limited, wait, stop, everyone=isinstance(reason, RateLimited))

    async def _back_off(self, number: int, wait: float | None, stop: asyncio.Event, *, everyone: bool) -> None:
        """What the server says, else 1, 2, 4, ... seconds, between half and the whole of it by chance."""
        delay = min(_LONGEST_WAIT, 2.0 ** min(number - 1, 10)) * self._random.uniform(0.5, 1.0)
        if wait is not None:
            delay = max(0.0, wait) + self._random.uniform(0, 0.1)
        if everyone:
            self._not_before = max(self._not_before, time.monotonic() + delay)
        await _sleep(delay, stop)


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    """Raises `Stopped` as soon as nothing more is to be sent."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
    raise Stopped("stopped")
