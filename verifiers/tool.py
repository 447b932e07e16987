"""A program, or a function, that looks at the picture itself: OCR, a detector, a classifier."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.core.border import ForeignValueError, check_timeout, said
from structdecode.core.errors import BudgetSpent, ConfigError
from structdecode.core.places import load_place
from structdecode.core.protocols import Model
from structdecode.core.reading import cut, one_line, parse_json
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers.callable import FunctionVerifier, read_score

_LONGEST_REPLY = 1 << 16
"""Bytes of a command's output that are read."""


@dataclass(frozen=True)
class Tool:
    """Each candidate's score as a command or a function gives it; one that fails, is late or says nonsense leaves it unscored.

    A command is run once a candidate. It reads one JSON object from its standard input: ``question``, ``images`` (paths of
    PNG files, which are removed afterwards), ``text`` (the whole answer so far) and ``stages`` (text by name). It writes a
    number, or ``{"score": number or null, "reason": text}`` with whatever else is to be in the details, to its standard
    output. Its own processes are ended with it. A comparison knows it by its arguments: give a new version another name.

    A function is called as by `FunctionVerifier` (``function(candidate)`` or ``function(prompt, candidate)``, plain or
    async) and may return such an object too; one of its failures costs that candidate's score alone.

    Attributes:
        command: the program and its arguments.
        function: or a function: itself, ``file.py:name`` or ``package.module:name``.
        timeout: seconds for one candidate. A plain function that takes longer is left behind in its thread.
        at_once: candidates that are worked on at the same time.
    """

    command: tuple[str, ...] = ()
    function: Callable[..., Any] | str | None = None
    timeout: float = 60.0
    at_once: int = 2

    def __post_init__(self) -> None:
        check_settings(self)
        check_timeout(self.timeout, "tool: timeout")
        if self.at_once < 1:
            raise ConfigError(f"tool: at_once must be at least 1, not {self.at_once}")
        if bool(self.command) == (self.function is not None):
            raise ConfigError("tool needs a command ([program, argument, ...]) or a function, one of the two")
        if self.command and shutil.which(self.command[0]) is None:
            raise ConfigError(f"tool: there is no program {self.command[0]!r}: give its path")
        if isinstance(self.function, str):
            object.__setattr__(self, "function", load_place(self.function, "tool: function"))
        if self.function is not None and not callable(self.function):
            raise ConfigError(f"tool: function must be a function, not {self.function!r:.80}")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        turns = asyncio.Semaphore(self.at_once)
        with tempfile.TemporaryDirectory(prefix="structdecode-tool-") as name:
            folder = Path(name)
            images = await asyncio.to_thread(_written, prompt, folder) if self.command and candidates else []

            async def one(at: int, candidate: Candidate) -> Score:
                async with turns:
                    try:
                        if self.command:
                            return await self._run(prompt, candidate, images, folder / str(at))
                        return await asyncio.wait_for(self._call(prompt, candidate, model), self.timeout)
                    except BudgetSpent:
                        raise
                    except TimeoutError:
                        return Score.unscored(f"no score within {self.timeout:g} s")
                    except Exception as error:
                        return Score.unscored(said(error))

            return list(await asyncio.gather(*(one(at, candidate) for at, candidate in enumerate(candidates))))

    async def _call(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        assert callable(self.function)
        (score,) = await FunctionVerifier(self.function).score(prompt, [candidate], model)
        return score

    async def _run(self, prompt: Prompt, candidate: Candidate, images: list[str], folder: Path) -> Score:
        """Raises `TimeoutError` where it takes too long, `OSError` where it cannot be started."""
        asked = {"question": prompt.question, "images": images, "text": candidate.text, "stages": candidate.stages}
        folder.mkdir()
        question, reply, errors = (folder / name for name in ("question", "reply", "errors"))
        question.write_bytes(json.dumps(asked).encode())
        with question.open("rb") as given, reply.open("wb") as out, errors.open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                *self.command, stdin=given, stdout=out, stderr=err, start_new_session=True
            )
            try:
                code = await asyncio.wait_for(process.wait(), self.timeout)
            finally:
                with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            last = cut(one_line(_head(errors)), 300)
            return Score.unscored(f"{self.command[0]} ended with {code}" + (f": {last}" if last else ""))
        return _read(_head(reply))


def _read(reply: str) -> Score:
    try:
        return read_score(parse_json(reply))
    except (ValueError, ForeignValueError):
        return Score.unscored(f"not a number or a score: {cut(one_line(reply), 200)!r}")


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_LONGEST_REPLY).decode("utf-8", "replace")


def _written(prompt: Prompt, folder: Path) -> list[str]:
    """Paths of the prompt's pictures as PNG files."""
    paths = [str(folder / f"{at}.png") for at in range(len(prompt.images))]
    for path, picture in zip(paths, prompt.images, strict=True):
        picture.image.save(path, "PNG")
    return paths
