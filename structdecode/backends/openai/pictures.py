"""How a picture travels to an API."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from structdecode.core.images import Picture, load_picture, opened, orientation
from structdecode.core.picture_files import FILES

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that chat APIs take, by Pillow's name. All others are sent as PNG."""


def as_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
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
        return _url("image/png", as_png(source.image))
    picture = load_picture(source)  # decodes every pixel: a broken picture costs nothing then
    data = FILES.read(source)
    with opened(data) as image:
        mime = MIME.get(image.format or "")
        plain = getattr(image, "n_frames", 1) == 1 and orientation(image) == 1
    return _url(mime, data) if mime and plain else _url("image/png", as_png(picture.image))


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
