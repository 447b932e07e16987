"""What a decoding step needs of its process: all cores, and the interpreter without waiting for it.

**One team of OpenMP threads at a time.** GNU's OpenMP keeps a team for every thread that has run a parallel region. As soon as all teams together have more
threads than there are cores, idle members fall asleep within microseconds instead of spinning (libgomp's manual,
``GOMP_SPINCOUNT``), and each of the hundred small products of a step pays for waking them. A model that was loaded
in one thread and decodes in another is in that case: on two cores the second one did next to nothing. So a thread
that hands torch's work on to another one gives its team back first; it gets a new one when it needs one.

**A short switch interval.** Each operation of torch lets go of the interpreter and asks for it again; if another
thread (an event loop, one that prepares a picture) has it by then, that one keeps it for Python's switch interval,
5 ms. With many questions open the model's thread spent 40 % of its time so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_SOFT = 1
"""``omp_pause_soft``: give the threads back, keep the settings (OpenMP 5.0, section 3.2.45)."""


SWITCH_INTERVAL = 2e-4
"""Seconds that another thread may keep the interpreter while the model works."""


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """While this is open a thread that asks for the interpreter gets it soon; then as before."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def release_openmp_threads() -> None:
    """Gives the calling thread's OpenMP team back; does nothing where there is none, or another OpenMP."""
    _pause()(_SOFT)


@cache
def _pause() -> Callable[[int], object]:
    """``omp_pause_resource_all`` of the libgomp that this process has loaded (torch brings its own)."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return lambda _: None
    loaded = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    functions = [getattr(ctypes.CDLL(path), "omp_pause_resource_all", None) for path in sorted(loaded)]
    known = [function for function in functions if function is not None]
    return lambda kind: [function(kind) for function in known]


async def until_stopped(answer: asyncio.Future[T], stop: Callable[[], object]) -> T:
    """Waits for what another thread works on; cancelled, has it stopped and ends when it has."""
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        stop()
        while not answer.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([answer])
        if not answer.cancelled():
            answer.exception()  # nobody is left to hear of it
        raise
