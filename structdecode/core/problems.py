"""How a row says that it cannot be used. Nothing here leaves the package: `rows.collect` makes a `Rejected` of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

_LONGEST_NAME = 255
"""Of a file or folder, in any file system that is common."""
_LONGEST_PATH = 4 * 4096
"""Linux takes paths of 4,096 bytes; the widest escape of a byte's character has four."""


@dataclass(frozen=True)
class Rejected:
    """A row of a data file that was left out: where, which of the known problems, and what to do about it."""

    file: str
    line: int | None
    problem: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rejected:
        return cls(**{f.name: data[f.name] for f in fields(cls)})  # a newer version may have added some


class BadRow(Exception):
    """A row that has to be left out: which of the known problems, and what to do about it, in one line."""

    def __init__(self, problem: str, message: str) -> None:
        super().__init__(printable(message))
        self.problem = problem

    def rejected(self, file: str, line: int) -> Rejected:
        return Rejected(file, line, self.problem, str(self))


def printable(text: str) -> str:
    """Line breaks and control characters of the data's as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object, length: int = 80) -> str:
    """A value of the data's, safe for one line of a terminal and not too long."""
    text = ascii(value)
    return text if len(text) <= length else text[: length - 4] + "...'"


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path or address, whole: what is left of one that was cut names another file. What no file can be called is cut."""
    text = str(path)
    possible = all(len(part) <= _LONGEST_NAME for part in text.split("/"))
    return shown(text, _LONGEST_PATH) if possible else shown(text)


def kind_of(value: Any) -> str:
    """What a value is, in the words of a data file."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", bytes: "bytes", str: "text"}
    return names.get(type(value), "a number" if isinstance(value, int | float | Decimal) else type(value).__name__)
