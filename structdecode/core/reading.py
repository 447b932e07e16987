"""Reading what a user names: regular files of a sensible size, JSON as the standard has it, and YAML."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from structdecode.core.errors import ConfigError, MissingExtraError

LONGEST = 2000
"""Characters of an error's text that are shown."""
LARGEST = 256 * 2**20
"""Bytes of the largest file that is read in one piece."""


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """A text file in UTF-8.

    Raises:
        OSError: it is not there, is no regular file (a pipe or a device may never end), or is larger than ``largest``.
        ValueError: it is not UTF-8.
    """
    _check_regular(path, largest)
    return Path(path).read_text(encoding="utf-8")


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """A file's bytes. Raises `OSError` as `read_text`."""
    _check_regular(path, largest)
    return Path(path).read_bytes()


def open_regular(path: str | Path) -> BinaryIO:
    """A file of any size, opened to read its bytes. Raises `OSError` as `read_text`."""
    _check_regular(path)
    return Path(path).open("rb")


def check_appendable(path: Path) -> None:
    """Raises `OSError` where something is at ``path`` that is no regular file."""
    if path.exists():
        _check_regular(path)


def _check_regular(path: str | Path, largest: float = math.inf) -> None:
    try:
        found = os.stat(path)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have such a name", ascii(str(path))) from None
    if not stat.S_ISREG(found.st_mode):
        kind = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else "not a regular file", str(path))
    if found.st_size > largest:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes are more than the {largest} that are read here", str(path))


def parse_json(text: str | bytes) -> Any:
    """JSON without NaN and infinities, which the standard does not have.

    Raises:
        ValueError: it is something else, or nested so deep that nobody can have meant it.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_yaml(text: str, extra: str = "eval") -> Any:
    """YAML of plain values.

    Args:
        extra: of the package, that brings PyYAML where this is called from.

    Raises:
        ValueError: it is something else, in one line, or nested so deep that nobody can have meant it.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", extra) from None
    try:
        return _sound(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_document(path: str | Path, extra: str = "eval") -> Any:
    """What a ``.json`` file holds, or any other file as YAML.

    Raises:
        ConfigError: it cannot be read, or is something else; the message begins with its name.
        MissingExtraError: as `parse_yaml`.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _sound(parse_json(text)) if Path(path).suffix == ".json" else parse_yaml(text, extra)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _sound(document: Any) -> Any:
    """The document, if it is a tree (an alias may be used twice, not inside itself) of texts that UTF-8 can write.

    Raises:
        ValueError: it is not.
    """
    known: set[int] = set()  # what is fit; an alias that is used a million times is looked at once
    _walk(document, known, set())
    return document


def _walk(value: Any, known: set[int], within: set[int]) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"{ascii(value)[:60]} holds half of a surrogate pair, which is no character")
    elif isinstance(value, dict | list) and id(value) not in known:
        if id(value) in within:
            raise ValueError("an alias stands inside of what it stands for, without end")
        within.add(id(value))
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _walk(part, known, within)
        within.discard(id(value))
        known.add(id(value))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def one_line(text: str) -> str:
    """White space and control characters as single blanks, and no more than anybody reads."""
    return cut(" ".join("".join(c if c.isprintable() else " " for c in text).split()), LONGEST)


def short_repr(value: object, longest: int = 60) -> str:
    """A value for a message, whatever it is: an integer of thousands of digits and some plug-ins' own have no ``repr``."""
    try:
        return cut(repr(value), longest)
    except BaseException:
        return f"a {type(value).__name__}"


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
