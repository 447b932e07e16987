"""The command line in this process, as a shell sees it: exit code, stdout, stderr; and a disk that is full."""

from __future__ import annotations

import io
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from structdecode.cli.main import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


def command(*args: object) -> Done:
    """Whatever the command does not turn into an exit code is raised: that would be a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["structdecode", *map(str, args)]):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return Done(code, out.getvalue(), err.getvalue())


def one_line(*args: object) -> str:
    """What a command says that must fail with one line on stderr."""
    done = command(*args)
    assert done.code in (1, 2), done
    assert done.err.strip() and done.err.count("\n") == 1, done.err
    return done.err


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """A write beyond ``room`` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
