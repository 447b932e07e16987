"""Calls of what others wrote: what comes back of them, in whatever way they end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from structdecode.core.border import (
    ForeignExitError,
    ForeignValueError,
    GivenUpError,
    check_timeout,
    checked_score,
    in_thread,
    is_async,
    is_list,
    number,
    plain,
    said,
    within,
)
from structdecode.core.errors import ConfigError
from structdecode.core.types import Score


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


def test_a_thread_of_its_own_gives_what_the_function_gives() -> None:
    here = asyncio.run(in_thread(threading.current_thread))
    assert here.name == "structdecode-plug-in" and here.daemon, "it keeps no process alive"
    assert asyncio.run(in_thread(lambda: None)) is None
    assert asyncio.run(in_thread(lambda: [1, "a"])) == [1, "a"]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("of theirs"), ValueError, "^of theirs$"), (StopIteration("done"), RuntimeError, "^StopIteration: done$"),
        (SystemExit("bye"), ForeignExitError, "^SystemExit: bye$"), (KeyboardInterrupt(), ForeignExitError, "^KeyboardInterrupt$"),
        (asyncio.CancelledError(), asyncio.CancelledError, "^$"),
    ],
)  # fmt: skip
def test_what_a_function_raises_in_a_thread(error: BaseException, kind: type[BaseException], words: str) -> None:
    with pytest.raises(kind, match=words):
        asyncio.run(in_thread(raising(error)))


def test_nobody_waits_for_a_thread_that_outlives_its_loop(capfd: pytest.CaptureFixture[str]) -> None:
    gate, done = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait(10)
        done.set()

    async def give_up() -> None:
        await asyncio.wait_for(in_thread(work), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    gate.set()
    assert done.wait(10)
    time.sleep(0.05)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("threaded", [True, False])
def test_a_call_may_be_plain_async_or_give_back_what_is_to_be_awaited(threaded: bool) -> None:
    async def later(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def twice() -> Any:
        return later(3)

    assert asyncio.run(within(lambda: 3, None, threaded=threaded)) == 3
    assert asyncio.run(within(partial(later, 3), 10)) == 3 and asyncio.run(within(twice, None)) == 3
    for error, kind, words in (
        (ZeroDivisionError("x"), ZeroDivisionError, "^x$"), (SystemExit(3), ForeignExitError, "^SystemExit: 3$"),
        (asyncio.CancelledError(), ForeignExitError, "^CancelledError$"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            asyncio.run(within(raising(error), None, threaded=threaded))


def test_what_takes_longer_is_given_up_unless_it_waits_for_what_ends_by_itself() -> None:
    cancelled: list[float] = []

    async def slow(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.append(seconds)
            raise
        return "late"

    with pytest.raises(GivenUpError):
        asyncio.run(within(partial(slow, 30), 0.05))
    assert cancelled == [30]
    until = time.monotonic() + 0.2
    assert asyncio.run(within(partial(slow, 0.15), 0.05, busy=lambda: time.monotonic() < until)) == "late"
    with pytest.raises(GivenUpError):
        asyncio.run(within(partial(time.sleep, 1.5), 0.05, threaded=True))


def test_what_swallows_its_cancellation_is_left_behind() -> None:
    swallowed: list[int] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                swallowed.append(1)

    async def run() -> int:
        with pytest.raises(GivenUpError):
            await within(stubborn, 0.05)
        return len(asyncio.all_tasks())

    assert asyncio.run(asyncio.wait_for(run(), 10)) <= 2 and swallowed


def test_what_it_awaits_may_fail_and_that_is_its_own_to_catch() -> None:
    happened: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def careful() -> str:
        try:
            await asyncio.gather(failing())
        except ValueError:
            happened.append("caught")
        try:
            await asyncio.shield(asyncio.ensure_future(failing()))
        finally:
            happened.append("ended")
        return "never"

    with pytest.raises(ValueError, match="no"):
        asyncio.run(within(careful, 10))
    assert happened == ["caught", "ended"]


def test_values_are_made_plain() -> None:
    assert number("3" == 3) == 0.0 and number(3) == 3.0
    for wrong, words in (
        (float("inf"), "inf is not a finite number"),
        ("3", "'3' is not a number"),
        (None, "None is not a number"),
        ([1, 2], r"\[1, 2\] is not a number"),
    ):
        with pytest.raises(ForeignValueError, match=words):
            number(wrong)
    deep: Any = "core"
    for _ in range(30):
        deep = [deep]
    flat = plain(deep)
    levels = 0
    while isinstance(flat, list):
        flat, levels = flat[0], levels + 1
    assert flat == "..." and levels == 20
    assert plain({1: {2, }, "x": (True, None, 2**63, -(2**62)), "y": float("nan")}) == {
        "1": [2], "x": [True, None, "(a number of more than 63 bits)", -(2**62)], "y": "nan",
    }  # fmt: skip
    assert (
        said(ValueError("a\nb\x1b[0m" + "c" * 1000)).startswith("ValueError: a b")
        and len(said(ValueError("c" * 1000))) < 560
    )
    assert said(KeyError()) == "KeyError"


def test_a_score_is_read_field_by_field() -> None:
    found = checked_score(Score(True, reason=3, details=[1], resolution=-0.5))  # type: ignore[arg-type]
    assert found == Score(1.0, "3", {"details": [1]}, 0.5)
    for wrong, words in (
        (3, "not a Score: 3"),
        (Score("x"), "'x' is not a number"),
        (Score(1.0, resolution=float("nan")), "not a finite number"),
    ):  # type: ignore[arg-type]
        with pytest.raises(ForeignValueError, match=words):
            checked_score(wrong)


def test_times_lists_and_functions() -> None:
    assert check_timeout(None, "t") is None and check_timeout(2, "t") == 2.0
    for wrong in (0, -1, True, "3", float("nan")):
        with pytest.raises(ConfigError, match="t must be more than 0 seconds"):
            check_timeout(wrong, "t")
    assert [is_list(x) for x in ([1], (1,), "ab", b"ab", {1}, None)] == [True, True, False, False, False, False]

    class Called:
        async def __call__(self) -> None: ...

    assert is_async(Called()) and is_async(within) and not is_async(lambda: None)
