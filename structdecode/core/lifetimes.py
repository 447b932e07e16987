"""Verifiers that are async context managers: entered before they are first asked, left when the run that asked them ends."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

from structdecode.core.border import ForeignExitError, said
from structdecode.core.labels import verifiers_in

LEAVING = 10.0
"""Seconds that a verifier may take to free what it holds."""


class Lifetimes:
    """Which verifiers are open. Each is entered once, however many searches ask it, and left by the task that entered it."""

    def __init__(self) -> None:
        self._opened: dict[int, tuple[Any, asyncio.Future[None]]] = {}
        self._holding: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    async def enter(self, verifier: object) -> None:
        """Opens a verifier and those in its settings. Raises what one of them raises; it is asked again next time."""
        for each in _with_nested(verifier):
            if not hasattr(type(each), "__aenter__"):
                continue
            if id(each) not in self._opened:
                opened = asyncio.get_running_loop().create_future()
                self._opened[id(each)] = (each, opened)
                self._holding.append(asyncio.ensure_future(self._hold(each, opened)))
            await asyncio.shield(self._opened[id(each)][1])

    async def _hold(self, verifier: Any, opened: asyncio.Future[None]) -> None:
        """Whatever a verifier raises, it ends neither the process nor those who wait for it."""
        try:
            async with verifier:
                opened.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if not opened.done():
                self._opened.pop(id(verifier), None)
                opened.set_exception(error if isinstance(error, Exception) else ForeignExitError(said(error)))
                opened.exception()  # looked at: who asked may be gone
            elif not isinstance(error, asyncio.CancelledError):  # which is how `close` leaves one behind
                warnings.warn(f"verifier {type(verifier).__name__} failed to close: {said(error)}", stacklevel=2)

    async def __aenter__(self) -> Lifetimes:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._over.set()
        left = (await asyncio.wait(self._holding, timeout=LEAVING))[1] if self._holding else ()
        if left:
            warnings.warn(f"a verifier did not close within {LEAVING:g} s and is left behind", stacklevel=2)
        for task in left:
            task.cancel()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Searches that begin in here, in this task or one that it starts, are part of this run. Not around a ``yield``
        of an async generator: its context is that of whoever listens.
        """
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Lifetimes | None] = ContextVar("lifetimes", default=None)


@asynccontextmanager
async def lifetimes() -> AsyncIterator[Lifetimes]:
    """Those of the run that this is part of; where it is part of none, new ones that end with it."""
    known = _current.get()
    if known is not None:
        yield known
        return
    async with Lifetimes() as own:
        with own.around():
            yield own


def _with_nested(verifier: object) -> Iterator[Any]:
    """A verifier behind those in its settings (an ensemble's members)."""
    for _, each in verifiers_in(verifier):
        yield from _with_nested(each)
    yield verifier
