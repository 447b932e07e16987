"""``structdecode``, or another program, as a process of its own that has torch and transformers loaded already.

A start costs a fork instead of seconds of imports. Each test process has a server that has loaded the modules, computed
nothing, and forks itself for every command (`multiprocessing`'s forkserver); signals, exit codes and what is written are
as those of ``python -m structdecode``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Command:
    """A command under way, with what tests use of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess, folder: Path) -> None:
        self._process, self._folder = process, folder
        assert process.pid is not None
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 900) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            raise TimeoutError(f"still running after {timeout} s: {self.said('err')[-2000:]}")
        return self._process.exitcode

    def communicate(self, timeout: float = 900) -> tuple[str, str]:
        self.wait(timeout)
        return self.said("out"), self.said("err")

    def said(self, stream: str) -> str:
        """What it wrote to ``out`` or ``err`` so far."""
        path = self._folder / stream
        return path.read_text() if path.exists() else ""


@cache
def _folders() -> tempfile.TemporaryDirectory[str]:
    """Of what commands say; gone when the tests end."""
    return tempfile.TemporaryDirectory(prefix="structdecode-tests-")


def start(*arguments: object, environment: Mapping[str, str] = {}, program: str = "structdecode.cli.main") -> Command:
    """``structdecode`` with these arguments, one thread and 120 columns; ``environment`` goes before the test's own.

    ``program`` is the module whose ``main`` runs, or a script's file.
    """
    folder = Path(tempfile.mkdtemp(dir=_folders().name))
    around = {**os.environ, **ENVIRONMENT, **environment}
    words = [str(argument) for argument in arguments]
    process = _CONTEXT.Process(target=_main, args=(program, words, around, str(folder), os.getcwd()), daemon=True)
    with mock.patch.dict(os.environ, ENVIRONMENT):  # the server's own, if this is the first
        process.start()
    return Command(process, folder)


def run(
    *arguments: object, timeout: float = 300, program: str = "structdecode.cli.main", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same, ended."""
    command = start(*arguments, environment=environment, program=program)
    out, err = command.communicate(timeout)
    assert command.returncode is not None
    return subprocess.CompletedProcess([*map(str, arguments)], command.returncode, out, err)


def _main(program: str, words: list[str], environment: dict[str, str], folder: str, directory: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "rww"[number], closefd=False) for number in range(3))
    sys.argv = ["structdecode", *words]
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the library has read that long ago
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        importlib.import_module(program).main()
