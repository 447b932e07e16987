"""JSONL files that a kill tears at most the last line of: readers pass over it, the writer cuts it off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from structdecode.core.errors import ConfigError
from structdecode.core.paths import naming
from structdecode.core.reading import check_appendable, open_regular, parse_json
from structdecode.core.shapes import misfit


def lines(path: Path, shape: Any = dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file; a torn last one is passed over, a missing file has none.

    Args:
        shape: what each line is, as `structdecode.core.shapes.misfit` takes it.

    Raises:
        ConfigError: a line that is not the last is not JSON, or of another shape.
    """
    if not path.exists():
        return
    with open_regular(path) as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return  # torn: it was being written when the run was killed
            try:
                line = parse_json(raw)
                problem = misfit(line, shape)
            except ValueError as error:
                problem = str(error)
            if problem is not None:
                raise ConfigError(f"{path}:{number}: damaged ({problem}): delete this line and resume the run")
            yield line


@dataclass
class Appender:
    """An append-only JSONL file of this process alone.

    Opening cuts off a torn last line and takes a lock that ends with the process.

    Raises:
        ConfigError: another process is writing this file.
    """

    path: Path
    _file: IO[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_appendable(self.path)
        self._file = self.path.open("a+b")
        _lock(self._file, self.path)
        self._cut_torn_line()

    def add(self, line: Mapping[str, Any]) -> None:
        """Returns when the line is on the disk."""
        text = json.dumps(line, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
        with naming(self.path):
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with naming(self.path):
            self._file.close()

    def _cut_torn_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            self._file.seek(begin)
            newline = self._file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            self._file.truncate(end)


def write_new(path: Path, text: str) -> bool:
    """Writes a file whole unless it is there already; whether this call was the one that wrote it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            partial.write_text(text, encoding="utf-8")
            os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def as_lines(items: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two processes on one shard are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"{path}: another process is writing this run: wait for it, or end it") from None
