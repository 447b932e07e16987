"""Where the training data keep their pictures."""

from __future__ import annotations

import filecmp
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from structdecode.backends.openai.pictures import as_png
from structdecode.core.images import ImageSource, opened
from structdecode.core.paths import FULL, atomic
from structdecode.core.problems import BadRow
from structdecode.data.pictures import Pictures


@dataclass(frozen=True)
class Placed:
    """A picture: the file to read, and its name in the training data."""

    path: Path
    name: str


class ImageStore:
    """Puts each picture below the output folder, so that ``train.jsonl`` and its pictures can be moved as one.

    A file is linked (copied where the file system cannot), under its own name; bytes out of a table are written,
    named for their content. Without ``out`` (a dry run) nothing is written, and bytes wait in memory as no file.
    """

    def __init__(self, out: Path | None) -> None:
        self.out = out

    def place(self, source: ImageSource, folder: str, pictures: Pictures) -> Placed:
        """Raises `BadRow` where the file cannot be made, `OSError` where no other could be either: the disk is full."""
        if isinstance(source, Image.Image):
            source = as_png(source)
        name = f"{folder}/{self._name(source, pictures)}"
        if self.out is None:
            return Placed(Path(source) if not isinstance(source, bytes) else Path(os.devnull), name)
        target = self.out / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(source, target) if isinstance(source, bytes) else _link(Path(source), target)
        except OSError as error:
            if error.errno in FULL:
                raise OSError(error.errno, error.strerror, str(target)) from None
            raise BadRow("image-not-placed", f"image {name}: {error.strerror or error}") from None
        return Placed(target, name)

    def _name(self, source: str | Path | bytes, pictures: Pictures) -> str:
        if not isinstance(source, bytes):
            path = Path(source)
            if pictures.root is not None:
                root = Path(os.path.abspath(pictures.root))
                if path.is_relative_to(root):
                    return path.relative_to(root).as_posix()
            return f"{pictures.digest(path)}{path.suffix.lower()}"
        kind = _format_of(source)
        return f"{pictures.digest(source)}.{'jpg' if kind == 'JPEG' else kind.lower()}"


def _write(data: bytes, target: Path) -> None:
    if target.exists() and target.stat().st_size == len(data):
        return
    with atomic(target, sync=False) as partial:
        partial.write_bytes(data)


def _link(path: Path, target: Path) -> None:
    if target.exists() and (os.path.samefile(path, target) or filecmp.cmp(path, target)):
        return
    with atomic(target, sync=False) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, partial)


def _format_of(data: bytes) -> str:
    with opened(data) as image:
        return image.format or "PNG"
