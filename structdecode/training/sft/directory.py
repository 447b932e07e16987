"""A run directory: of one recipe, and of files that a digest tells apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.paths import write_atomically
from structdecode.core.reading import open_regular, parse_yaml, read_text


def check_same(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Where a run directory has its settings already, a run in it has to have the same.

    Args:
        path: the YAML file of `keep_settings`. settings: plain values. what: they are, in one word.

    Raises:
        ConfigError: naming what differs.
    """
    if not path.exists():
        return
    before = _read(path)
    names = [key for key in settings if before.get(key) != settings[key]]
    if names:
        differing = "; ".join(f"{key} {before.get(key)!r} there, {settings[key]!r} now" for key in names)
        raise ConfigError(f"{path.parent} was made with another {what} ({differing}): choose another --out")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(read_text(path), "train")
    except ValueError as error:
        raise ConfigError(f"{path}: damaged ({error}): choose another --out") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: damaged (no mapping): choose another --out")
    return found


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Once all is loaded and nothing was wrong with it: a mistake should not claim the directory."""
    if not path.exists():
        write_atomically(path, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def sha256(path: Path) -> str:
    """Of a file. Raises `DataError` where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return digest.hexdigest()
