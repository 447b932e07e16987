"""Places to write to."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structdecode.core.errors import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Nothing more can be written here."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An `OSError` of a write does not say of what."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def atomic(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a name to write a file under; at the end it is at ``path``, whole or not at all.

    A kill leaves the old file or the new one; several processes may write the same one. ``sync`` waits until the
    content is on the disk before it takes the name. Where ``path`` is a symbolic link, what it points to is written;
    a device or a pipe is written into, never replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield from _into(path)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield partial
            if sync:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # after an error, or where both names were links to one file


def _into(path: Path) -> Iterator[Path]:
    """For what is no regular file: written elsewhere first, since a part of it could not be taken back."""
    with tempfile.TemporaryDirectory() as directory:
        partial = Path(directory) / path.name
        yield partial
        with partial.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic`: a new folder with all that is in it; ``path`` is not there yet, or empty."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_writable(path: Path | None) -> None:
    """Before any work is done: an unwritable place should not cost a search."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such directory: {path.parent}")
