"""The replies that were paid for: a line each, on the disk before anything is made of it.

``train.jsonl`` and ``rejected.jsonl`` follow from the data and this file alone, so a run that was killed at any moment
is resumed: a request whose reply is here is never sent again. What a server counted for a reply that nobody
can use has a line, too, which is no reply. The API key is in no line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from structdecode.backends.openai.requests import MOST_TOKENS, Purpose, Reply, Request
from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import Appender
from structdecode.core.problems import kind_of, shown
from structdecode.core.reading import open_regular

REFUSED = "request-refused"
"""`Reply.finish` of a request that the server refused for what it holds: kept like an answer, so that nobody asks again."""

UNUSABLE = "unusable-reply"
"""`Reply.finish` of what a server counted tokens for and nobody can use: kept for its cost alone, the request is asked again."""

_TYPES: dict[Any, type] = {"str": str, "int": int}
"""Of the fields of a `Reply`."""


@dataclass(frozen=True)
class Spent:
    """Counts of one purpose."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Journal:
    """Replies by the content of their requests. Texts stay on the disk; memory holds a place for each.

    Args:
        writing: whether replies will be added. Then a torn last line is cut off, and the file is locked.

    Raises:
        ConfigError: another process is writing this file, or a line other than the last is damaged.
    """

    def __init__(self, path: Path, *, writing: bool = True) -> None:
        self.path = path
        self._appender = Appender(path) if writing else None
        self._failed = ""
        self.answered = False
        self._places: dict[str, int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._read()
        self._file = open_regular(path) if path.exists() else None

    def _read(self) -> None:
        if not self.path.exists():
            return
        with open_regular(self.path) as file:
            place = 0
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    return  # torn by a kill, and here only read
                try:
                    self._note(_checked(json.loads(raw)), place)
                except (ValueError, RecursionError) as error:
                    raise ConfigError(f"{self.path}:{number}: damaged ({error}): delete this line") from None
                place += len(raw)

    def _note(self, line: Mapping[str, Any], place: int) -> None:
        if line.get("finish") != UNUSABLE:
            self._places.setdefault(line["key"], place)
            self.answered |= line.get("finish") != REFUSED
        for name, count in (("requests", 1), *((n, line[n]) for n in ("prompt_tokens", "completion_tokens"))):
            self._counts[line["purpose"], name] += min(max(count, 0), MOST_TOKENS)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Reply | None:
        place = self._places.get(key)
        if place is None or self._file is None:
            return None
        self._file.seek(place)
        line = json.loads(self._file.readline())
        return Reply(**{f.name: line[f.name] for f in fields(Reply)})

    def add(self, request: Request, reply: Reply) -> None:
        """Returns when the reply is on the disk.

        Raises:
            ConfigError: it cannot be written (no room?). Then nothing more is: a line might be torn in the middle.
        """
        if self._appender is None:
            raise RuntimeError("this journal was opened for reading")
        line = {"key": request.key, "purpose": request.purpose, "model": request.model, **asdict(reply)}
        if not self._failed:
            try:
                place = self.path.stat().st_size
                self._appender.add(line)
                self._note(line, place)
                return
            except OSError as error:
                self._failed = error.strerror or str(error)
        raise ConfigError(
            f"{self.path}: a reply cannot be kept ({self._failed}): make room; run the same command again to resume"
        )

    def spent(self, purpose: Purpose) -> Spent:
        """By all starts of this run together."""
        return Spent(**{f.name: self._counts[purpose, f.name] for f in fields(Spent)})

    def close(self) -> None:
        for file in (self._appender, self._file):
            if file is not None:
                file.close()


def _checked(line: Any) -> Mapping[str, Any]:
    """A line as `Journal.add` writes it. Raises `ValueError` where it is another."""
    if not isinstance(line, dict):
        raise ValueError(f"{kind_of(line)}, not an object")
    for name, wanted in {"key": str, "purpose": str, **{f.name: _TYPES[f.type] for f in fields(Reply)}}.items():
        if type(line.get(name)) is not wanted:
            there = kind_of(line[name]) if name in line else "missing"
            raise ValueError(f"{name} is {there}, not {'text' if wanted is str else 'a whole number'}")
    if line["purpose"] not in get_args(Purpose):
        raise ValueError(f"purpose is {shown(line['purpose'])}, not one of {', '.join(get_args(Purpose))}")
    return line
