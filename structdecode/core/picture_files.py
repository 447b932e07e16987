"""Picture files: read once for digest and pixels alike, for as long as they stay as they are.

A comparison names a picture many times (to look at it, for the question's key, for its cluster, once a cell to decode
it). The bytes of the files read last are kept, up to a bound, and the digest of every one; a file that was written
since is read again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from structdecode.core.reading import read_bytes

KEPT = 128 << 20
"""Bytes of pictures that are kept in memory at most."""

_Version = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file."""


def picture_digest(data: bytes) -> str:
    """Of a picture as it is stored, 32 hexadecimal digits: the same for a file and its bytes."""
    return blake2b(data, digest_size=16).hexdigest()


class PictureFiles:
    """Files by path, safe to use from several threads.

    Attributes:
        kept: bytes of files that are held at most.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._held = 0
        self._bytes: OrderedDict[str, tuple[_Version, bytes]] = OrderedDict()
        self._digests: dict[str, tuple[_Version, str]] = {}
        self._lock = Lock()

    def read(self, path: str | Path) -> bytes:
        """A file's bytes. Raises `OSError` as `structdecode.core.reading.read_bytes`."""
        name, version = str(path), _version(path)
        with self._lock:
            found = self._bytes.get(name)
            if found is not None and found[0] == version:
                self._bytes.move_to_end(name)
                return found[1]
        data = read_bytes(path)
        with self._lock:
            self._keep(name, version, data)
        return data

    def digest(self, path: str | Path) -> str:
        """`picture_digest` of a file's bytes. Raises `OSError` as `read`."""
        name, version = str(path), _version(path)
        found = self._digests.get(name)
        if found is None or found[0] != version:
            found = self._digests[name] = (version, picture_digest(self.read(path)))
        return found[1]

    def _keep(self, name: str, version: _Version, data: bytes) -> None:
        self._drop(name)
        if len(data) > self.kept:
            return
        self._bytes[name] = version, data
        self._held += len(data)
        while self._held > self.kept:
            self._drop(next(iter(self._bytes)))

    def _drop(self, name: str) -> None:
        if name in self._bytes:
            self._held -= len(self._bytes.pop(name)[1])


def _version(path: str | Path) -> _Version:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


FILES = PictureFiles()
"""The process's own."""
