"""Replies that were paid for, in a directory that several processes may share and a kill does not harm.

``replies-N.jsonl`` a line a reply, append-only; each process writes a file of its own · ``KEY.asking`` is locked while a
process asks for that reply, and nobody else does. Locks end with their process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypedDict

from structdecode.backends.openai.requests import Reply
from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import Appender
from structdecode.core.paths import naming
from structdecode.core.reading import open_regular, parse_json
from structdecode.core.shapes import misfit
from structdecode.verifiers.llm_judge.reading import JudgeReply

_BEGIN = b'{"key": "'


class _Line(TypedDict):
    key: str
    model: str
    text: str
    finish: str
    refusal: str
    prompt_tokens: int
    completion_tokens: int
    id: str
    top: Mapping[str, float] | None


class ReplyCache:
    """Replies by key. Texts stay on the disk; memory holds a place for each.

    Raises:
        ConfigError: a line that is not a file's last is damaged.
    """

    def __init__(self, directory: Path) -> None:
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._failed = ""
        self._places: dict[str, tuple[Path, int]] = {}
        self._seen: dict[Path, int] = {}
        self._writer = _own_file(directory)
        self._look()

    def get(self, key: str) -> JudgeReply | None:
        """Knows what other processes have written meanwhile, too."""
        if key not in self._places:
            self._look()
        if key not in self._places:
            return None
        path, offset = self._places[key]
        with open_regular(path) as file:
            file.seek(offset)
            raw = file.readline()
        try:
            line = parse_json(raw)
            problem = misfit(line, _Line)
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            raise _damaged(path, offset, problem)
        return JudgeReply(Reply(**{f.name: line[f.name] for f in fields(Reply)}), line["top"])

    def add(self, key: str, model: str, kept: JudgeReply) -> None:
        """Returns when the reply is on the disk.

        Raises:
            ConfigError: it cannot be written (no room?). Then nothing more is: a line might be torn in the middle.
        """
        self._check()
        path = self._writer.path
        try:
            offset = path.stat().st_size
            self._writer.add({"key": key, "model": model, **asdict(kept.reply), "top": kept.top})
        except OSError as error:
            self._failed = f"{path}: a reply cannot be kept ({error.strerror or error}): make room"
            self._check()
        self._places[key] = (path, offset)

    @contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """Whether nobody else is asking for this reply; nobody else will in here.

        Raises:
            ConfigError: replies cannot be kept.
        """
        self._check()
        lock = self.directory / f"{key}.asking"
        held = _locked(lock)
        try:
            yield held is not None
        finally:
            if held is not None:
                lock.unlink(missing_ok=True)
                os.close(held)

    def close(self) -> None:
        with suppress(OSError):  # of a reply that could not be written: `add` has said so
            self._writer.close()

    def _check(self) -> None:
        if self._failed:
            raise ConfigError(self._failed)

    def _look(self) -> None:
        """Reads what is new in all files."""
        for path in sorted(self.directory.glob("replies-*.jsonl")):
            offset = self._seen.get(path, 0)
            with open_regular(path) as file:
                file.seek(offset)
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break  # torn by a kill, or it is being written
                    key, quote, _ = raw.removeprefix(_BEGIN).partition(b'"')
                    if not raw.startswith(_BEGIN) or not quote:
                        raise _damaged(path, offset, "does not begin with a key")
                    self._places.setdefault(key.decode(errors="replace"), (path, offset))
                    offset += len(raw)
            self._seen[path] = offset


def _own_file(directory: Path) -> Appender:
    """The first one that no other process is writing."""
    for number in itertools.count(1):
        try:
            return Appender(directory / f"replies-{number}.jsonl")
        except ConfigError:
            continue
    raise AssertionError


def _locked(path: Path) -> int | None:
    """The open file, if nobody else has locked it."""
    held = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(held), path.stat()):  # who had it before may have removed it
            return held
    except ImportError:  # Windows: two processes may ask for the same reply
        return held
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(held)
    return None


def _damaged(path: Path, offset: int, problem: str) -> ConfigError:
    return ConfigError(f"{path}: the line at byte {offset} is damaged ({problem}): delete this line")
