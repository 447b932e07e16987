"""Places to write to."""

from __future__ import annotations

from pathlib import Path

from structdecode.errors import ConfigError


def check_writable(path: Path | None) -> None:
    """Before any work is done: an unwritable place should not cost a search."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such directory: {path.parent}")
