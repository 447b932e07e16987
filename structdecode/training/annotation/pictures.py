"""Pictures: where the training data keep them, and how they travel to an API."""

from __future__ import annotations

import base64
import filecmp
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from structdecode.core.images import ImageSource, Picture, load_picture, opened, orientation
from structdecode.core.paths import FULL, atomic
from structdecode.core.picture_files import FILES
from structdecode.core.problems import BadRow
from structdecode.data.pictures import Pictures

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that chat APIs take, by Pillow's name. All others are sent as PNG."""


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
            source = _as_png(source)
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


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(source: Path | Picture) -> str:
    """A picture as a ``data:`` URL with the MIME type of its content, whatever its name says.

    A format that APIs do not take, several frames, and a picture that its EXIF data turn, are sent as PNG.

    Raises:
        ImageError: it is missing, broken or too large.
    """
    if isinstance(source, Picture):
        return _url("image/png", _as_png(source.image))
    picture = load_picture(source)  # decodes every pixel: a broken picture costs nothing then
    data = FILES.read(source)
    with opened(data) as image:
        mime = MIME.get(image.format or "")
        plain = getattr(image, "n_frames", 1) == 1 and orientation(image) == 1
    return _url(mime, data) if mime and plain else _url("image/png", _as_png(picture.image))


def _url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def size_of(source: Path | Picture) -> tuple[int, int]:
    """Width and height in pixels; of a file from its header, (0, 0) where it has none."""
    if isinstance(source, Picture):
        return source.image.size
    try:
        with opened(FILES.read(source)) as image:
            return image.size
    except Exception:  # a decoder raises anything from OSError to struct.error on damaged bytes
        return (0, 0)
