"""Verifiers that are async context managers: entered before they are first asked, left when the run that asked them ends."""

from __future__ import annotations

import asyncio
import dataclasses
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from structdecode.core.border import GivenUpError, said, within

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
        try:
            async with verifier:
                opened.set_result(None)
                await self._over.wait()
        except Exception as error:
            if opened.done():
                warnings.warn(f"verifier {type(verifier).__name__} failed to close: {said(error)}", stacklevel=2)
                return
            self._opened.pop(id(verifier), None)
            opened.set_exception(error)
            opened.exception()  # looked at: who asked may be gone

    async def close(self) -> None:
        self._over.set()
        try:
            await within(partial(asyncio.wait, self._holding), LEAVING) if self._holding else None
        except GivenUpError:
            warnings.warn(f"a verifier did not close within {LEAVING:g} s and is left behind", stacklevel=2)
        for task in self._holding:
            task.cancel()


_current: ContextVar[Lifetimes | None] = ContextVar("lifetimes", default=None)


@asynccontextmanager
async def lifetimes() -> AsyncIterator[Lifetimes]:
    """Those of the run that this is part of; where it is part of none, new ones that end with it."""
    around = _current.get()
    if around is not None:
        yield around
        return
    own = Lifetimes()
    token = _current.set(own)
    try:
        yield own
    finally:
        _current.reset(token)
        await own.close()


def _with_nested(verifier: object) -> Iterator[Any]:
    """A verifier, and whatever has a life of its own among its settings (an ensemble's members), inner ones first."""
    if dataclasses.is_dataclass(verifier) and not isinstance(verifier, type):
        for name in (f.name for f in dataclasses.fields(verifier)):
            value = getattr(verifier, name, None)
            held = (
                value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
            )
            for each in held:
                if each is not verifier and callable(getattr(each, "score", None)):
                    yield from _with_nested(each)
    yield verifier
