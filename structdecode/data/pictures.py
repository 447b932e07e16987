"""The pictures of a row: found, looked at, and kept as they are stored, not as pixels."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from structdecode.core.images import MAX_PIXELS, ImageSource, opened
from structdecode.core.picture_files import FILES, picture_digest
from structdecode.core.problems import BadRow, kind_of, shown, shown_path

IMAGE_MARK = "<image>"
"""LLaVA's mark for where a picture goes. It is taken out: pictures are passed beside the text."""

IMAGE_FIELDS = ("image", "images")


def picture_cells(cells: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a row's pictures, under one of `IMAGE_FIELDS`: nothing, one, or a list. Empty texts name none.

    Raises:
        BadRow: two fields name different pictures.
    """
    found = [_named(cells.get(field)) for field in IMAGE_FIELDS]
    if all(found) and found[0] != found[1]:
        raise BadRow("two-image-fields", f"image is {shown(cells['image'])} and images {shown(cells['images'])}")
    return found[0] or found[1]


def _named(value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(v for v in values if v is not None and not (isinstance(v, str) and not v.strip()))


def check_image_marks(marks: int, pictures: int) -> None:
    """Pictures need no marks; where there are any, there is one for each.

    Args:
        marks: how often `IMAGE_MARK` is in the row's questions. pictures: how many it names.

    Raises:
        BadRow: the row says that there is a picture and names none, or names one that no mark stands for.
    """
    if marks > pictures:
        raise BadRow("mark-without-image", f"{IMAGE_MARK} is there {marks} times, for {pictures} pictures")
    if 0 < marks < pictures:
        raise BadRow("image-without-mark", f"{pictures} pictures, and {IMAGE_MARK} is there {marks} times")


class Pictures:
    """Finds the pictures that rows name.

    Attributes:
        root: the folder that paths are relative to and may not leave. None: there is none, and the only paths that
            are followed are those of Hugging Face's own image cells, ``{"bytes": None, "path"}``.
        check: whether a picture has to be there and to begin like one. Pixels are not decoded.
    """

    def __init__(self, root: Path | None, check: bool = True) -> None:
        self.root = root
        self.check = check
        self._files: dict[Path, str] = {}

    def sources(self, value: Any) -> tuple[ImageSource, ...]:
        """Of a cell: a path, ``data:`` URL, bytes, ``{"bytes", "path"}`` or a PIL image; a list of these; or nothing.

        Raises:
            BadRow: one cannot be used.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return ()
        return tuple(self._source(v) for v in (value if isinstance(value, list | tuple) else [value]))

    def digest(self, source: ImageSource) -> str:
        """Of the stored bytes (of a PIL image: of its pixels)."""
        if isinstance(source, Image.Image):
            return picture_digest(f"{source.mode} {source.size}".encode() + source.tobytes())
        if isinstance(source, bytes):
            return picture_digest(source)
        path = Path(source)
        return self._files[path] if path in self._files else self._look(path)

    def _source(self, value: Any) -> ImageSource:
        own_path = isinstance(value, dict) and bool({"bytes", "path"} & set(value))
        if own_path:
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and value.startswith("data:"):
            header, comma, body = value.partition(",")
            if not comma or not header.endswith(";base64"):
                raise BadRow("bad-data-url", "image: only 'data:image/...;base64,...' is read")
            value = from_base64(body)
        if isinstance(value, bytes):
            if self.check:
                check_image(value)
            return value
        if isinstance(value, Image.Image):
            return value
        if not isinstance(value, str) or not value.strip():
            raise BadRow("wrong-type", f"image is {kind_of(value)}, not a path, bytes or a data URL")
        path = self._path(value, own_path)
        if path not in self._files:
            self._files[path] = self._look(path)
        return path

    def _path(self, name: str, own_path: bool) -> Path:
        if name.startswith(("http://", "https://")):
            raise BadRow("remote-image", f"image {shown_path(name)}: not fetched from the network: download it")
        if "\0" in name or not _encodable(name):
            raise BadRow("bad-path", f"image {shown_path(name)}: not a name that a file can have: correct it")
        if self.root is None:
            if not own_path:
                raise BadRow(
                    "no-image-folder", f"image {shown_path(name)}: no folder is known to look in: give --images"
                )
            return Path(name)
        root = os.path.abspath(self.root)
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            raise BadRow(
                "path-escape",
                f"image {shown_path(name)}: not in the folder of pictures: move it there, or give --images",
            )
        return Path(path)

    def _look(self, path: Path) -> str:
        """The digest of a file, after a look at it."""
        try:
            if self.check:
                check_image(FILES.read(path), shown_path(path))
            return FILES.digest(path)
        except OSError as error:
            if not self.check:
                return "missing"
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise BadRow("image-missing", f"image {shown_path(path)}: {reason}: correct the path, or give --images")


def from_base64(text: str) -> bytes:
    """Raises `BadRow` where the text is not base64."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow("bad-base64", f"image: not base64 ({error}): encode it again") from None


def check_image(data: bytes, name: str = "image bytes") -> None:
    """Raises `BadRow` unless the data begin like a picture of a size that is read."""
    if not data:
        raise BadRow("empty-image", f"{name}: zero bytes: export it again")
    try:
        image = opened(data)
        width, height = image.size
        image.verify()
    except UnidentifiedImageError:
        raise BadRow("not-an-image", f"{name}: not an image in a format that Pillow reads: convert it") from None
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except Exception as error:  # what a decoder raises on damaged bytes is anything from OSError to struct.error
        raise BadRow("broken-image", f"{name}: broken or truncated ({error}): export it again") from None
    if width * height > MAX_PIXELS:
        raise BadRow("image-too-large", f"{name}: more than {MAX_PIXELS:,} pixels: scale it down")


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
