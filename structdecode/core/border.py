"""What plug-ins hand over, made plain: numbers of any library become floats, details become JSON, the rest is named."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

from structdecode.core.errors import ConfigError
from structdecode.core.reading import LONGEST, cut, one_line, short_repr
from structdecode.core.types import Candidate, Prompt, Score

T = TypeVar("T")

_DEPTH = 20
_LONGEST_SAID = 500
GRACE = 1.0
"""Seconds in which a verifier whose time is over may end what it does; then it is left behind."""


class ForeignValueError(Exception):
    """What a plug-in gave is not what it should be."""


class GivenUpError(Exception):
    """A plug-in took longer than it may. Not `TimeoutError`: that is what plug-ins raise themselves."""


class ForeignExitError(Exception):
    """A plug-in tried to end the process, or to cancel who called it."""


def number(value: Any) -> float:
    """A finite float of anything that is one number: numpy's and torch's scalars, decimals, fractions.

    Raises:
        ForeignValueError: it is a text, an array of several, NaN, infinite, or no number at all.
    """
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        found = float(value.detach() if hasattr(value, "detach") else value)  # torch warns of one with a gradient
    except BaseException:  # arrays and tensors raise what they like, and a plug-in's own number even SystemExit
        raise ForeignValueError(f"{short_repr(value, 80)} is not a number") from None
    if not math.isfinite(found):
        raise ForeignValueError(f"{short_repr(value, 80)} is not a finite number")
    return found


def checked_score(value: Any) -> Score:
    """A verifier's score with a float for a value, a text for a reason and JSON for details.

    Raises:
        ForeignValueError: it is no `Score`, or its value or resolution is not a finite number.
    """
    if not isinstance(value, Score):
        raise ForeignValueError(f"not a Score: {short_repr(value, 80)}")
    try:
        return replace(
            value,
            value=None if value.value is None else number(value.value),
            resolution=None if value.resolution is None else abs(number(value.resolution)),
            reason=value.reason if isinstance(value.reason, str) else cut(str(value.reason), LONGEST),
            details=plain(value.details) if isinstance(value.details, Mapping) else {"details": plain(value.details)},
        )
    except ForeignValueError:
        raise
    except BaseException as error:  # of a plug-in's own text or mapping, even SystemExit
        raise ForeignValueError(f"a Score that cannot be read ({type(error).__name__})") from None


def plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """JSON of anything: what JSON does not know becomes text, and so does what is nested without end (or in itself)."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair can be written to no file
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else "(a number of more than 63 bits)"
    if isinstance(value, Mapping | list | tuple | Set):
        if id(value) in above or len(above) == _DEPTH:
            return "..."
        inside = (*above, id(value))
        if isinstance(value, Mapping):
            return {plain(str(key)): plain(inner, inside) for key, inner in value.items()}
        return [plain(inner, inside) for inner in value]
    try:
        return number(value)
    except ForeignValueError:
        return str(value) if isinstance(value, float) else short_repr(value, 80)


def said(error: BaseException) -> str:
    """An error in one line, without control characters, and cut: it may quote what a model wrote."""
    try:
        text = cut(one_line(str(error)), _LONGEST_SAID)
    except BaseException:  # of a plug-in's own error
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ------------------------------------------------------------------ calls
async def within(
    call: Callable[[], Any],
    seconds: float | None,
    *,
    threaded: bool = False,
    busy: Callable[[], bool] = lambda: False,
) -> Any:
    """The result of a plug-in's call, plain or async, whatever it does.

    After ``seconds`` it is given up: what is async is cancelled, and left behind if it swallows that; a plain function
    runs in a thread of its own (``threaded``), which cannot be ended and goes on for nothing. What is async and blocks
    the event loop cannot be given up before it is done; it has taken longer then, too.

    Args:
        busy: whether it waits for something that ends by itself; then it is not given up yet.

    Raises:
        GivenUpError: it took longer.
        ForeignExitError: it raised CancelledError by itself, or what is no `Exception` (SystemExit, KeyboardInterrupt).
        Exception: what else it raised.
    """
    driven = _Driven(_guarded(partial(in_thread, call) if threaded else call))
    task = asyncio.ensure_future(driven.run())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        while not done and busy():
            done, _ = await asyncio.wait({task}, timeout=GRACE)
        if done:
            return _outcome(task)
        await _given_up(driven, task)
        raise GivenUpError
    except asyncio.CancelledError:
        await _given_up(driven, task)
        raise


async def scores_of(
    verifier: Any, prompt: Prompt, candidates: list[Candidate], model: Any, seconds: float | None
) -> Any:
    """What a verifier gives for its own list of the candidates, unchecked; a plain ``score`` runs in a thread.

    Raises:
        GivenUpError: it took longer than ``seconds``, even if it blocked the event loop and has scores now.
        ForeignExitError, Exception: as `within`.
    """
    call, plain = partial(verifier.score, prompt, list(candidates), model), not is_async(verifier.score)
    began = time.monotonic()
    scores = await within(call, seconds, threaded=plain)
    if seconds is not None and time.monotonic() - began > seconds + GRACE:
        raise GivenUpError
    return scores


class _Driven:
    """A coroutine that ends when it is given up and cancelled, though what it awaits should swallow that."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine, self.given_up = coroutine, False

    async def run(self) -> Any:
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self.coroutine.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as done:
                return done.value
            try:
                yield awaited
                step = partial(self.coroutine.send, None)
            except asyncio.CancelledError as error:
                if self.given_up:
                    self._end(error)
                    raise
                step = partial(self.coroutine.throw, error)
            except Exception as error:  # of what it awaited: its own to catch
                step = partial(self.coroutine.throw, error)

    def _end(self, error: asyncio.CancelledError) -> None:
        """Has it end in order, or not at all: nobody waits for it."""
        with suppress(BaseException):
            self.coroutine.throw(error)
        with suppress(BaseException):
            self.coroutine.close()


def _outcome(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        raise ForeignExitError("CancelledError")
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise ForeignExitError(said(error)) from None
    return task.result()


async def _given_up(driven: _Driven, task: asyncio.Task[Any]) -> None:
    driven.given_up = True
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)
    if task.done() and not task.cancelled():
        task.exception()  # looked at: nobody else will


async def _guarded(call: Callable[[], Any]) -> Any:
    try:
        found = call()
        while inspect.isawaitable(found):
            found = await found
        return found
    except (SystemExit, KeyboardInterrupt) as error:  # a task would let them out of the event loop
        raise ForeignExitError(said(error)) from None


async def in_thread(work: Callable[[], T]) -> T:
    """A plain function's result from a thread of its own, which does not keep the process alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    def run() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = work()
        except StopIteration as error:  # a future cannot hold it
            failure = RuntimeError(said(error))
        except (Exception, asyncio.CancelledError) as error:
            failure = error
        except BaseException as error:
            failure = ForeignExitError(said(error))
        try:
            loop.call_soon_threadsafe(settle, value, failure)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    threading.Thread(target=run, name="structdecode-plug-in", daemon=True).start()
    return await answer


def check_counts(usage: Any, kind: type) -> None:
    """Raises `ForeignValueError` unless it is of the kind given (`Usage`), of counts that are 0 or more."""
    if not isinstance(usage, kind):
        raise ForeignValueError(f"charge takes a {kind.__name__}, not {short_repr(usage, 80)}")
    for field in fields(kind):
        count = number(getattr(usage, field.name))
        if count < 0:
            raise ForeignValueError(f"charged {field.name} must be 0 or more, not {count:g}")


def check_timeout(seconds: Any, name: str) -> float | None:
    """Seconds that may be waited; None for without end.

    Raises:
        ConfigError: they are not a finite number above 0.
    """
    try:
        found = None if seconds is None else number(seconds)
    except ForeignValueError:
        found = 0.0
    if found is not None and (found <= 0 or isinstance(seconds, bool)):
        raise ConfigError(f"{name} must be more than 0 seconds (None for no limit), not {short_repr(seconds)}")
    return found


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it does nothing but make a coroutine; of an object with ``__call__``, whether that does."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
