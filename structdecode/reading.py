"""Reading what a user names: regular files of a sensible size, JSON as the standard has it, and YAML."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from structdecode.errors import MissingExtraError

LARGEST = 256 * 2**20
"""Bytes of the largest file that is read in one piece."""


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """A text file in UTF-8.

    Raises:
        OSError: it is not there, is no regular file (a pipe or a device may never end), or is larger than ``largest``.
        ValueError: it is not UTF-8.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else "not a regular file", str(path))
    if found.st_size > largest:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes are more than the {largest} that are read here", str(path))
    return Path(path).read_text(encoding="utf-8")


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
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
