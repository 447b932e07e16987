"""Pictures, from whatever the user has to an RGB image with a content digest."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from structdecode.core.errors import ImageError
from structdecode.core.picture_files import FILES
from structdecode.core.reading import one_line

MAX_PIXELS = 89_478_485
"""Pillow's own bound (about 9,459 x 9,459): beyond it an image is taken for a decompression bomb."""

THUMBNAIL = 192
"""Pixels a side of the pictures that a `Result` keeps to show."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a picture upright, by the value of EXIF's Orientation."""

ImageSource = str | Path | bytes | Image.Image

_WARNINGS = Lock()
"""Held while Python's warning filters, which all threads share, are other than they were."""


@dataclass(frozen=True)
class Picture:
    """An RGB image; two pictures with the same pixels are equal and share one ``digest``."""

    image: Image.Image = field(compare=False, repr=False)
    digest: str

    @cached_property
    def thumbnail(self) -> bytes:
        """A PNG of at most `THUMBNAIL` pixels a side, made once."""
        scale = min(1.0, THUMBNAIL / max(self.image.size))
        size = (max(1, round(self.image.width * scale)), max(1, round(self.image.height * scale)))
        buffer = io.BytesIO()
        self.image.resize(size, reducing_gap=2.0).save(buffer, "PNG")
        return buffer.getvalue()


def load_picture(source: ImageSource | Picture) -> Picture:
    """Loads a path, ``data:`` URL, bytes or PIL image.

    Palette, grey, CMYK, 16-bit and transparent (on white) pictures become 8-bit RGB, EXIF orientation is
    applied, and of an animation the first frame is taken.

    Raises:
        ImageError: the picture is missing, empty, broken, or larger than `MAX_PIXELS`.
    """
    if isinstance(source, Picture):
        return source
    name, image = _open(source)
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}: scale it down")
    if not image.width * image.height:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels: there is nothing to see")
    try:
        rgb = _to_rgb(image)
    except Exception as error:  # a decoder raises anything from OSError to struct.error on damaged bytes
        raise ImageError(f"{name}: broken or truncated image ({one_line(str(error))}): export it again") from None
    digest = hashlib.blake2b(f"{rgb.size}".encode() + rgb.tobytes(), digest_size=16).hexdigest()
    return Picture(rgb, digest)


def _open(source: ImageSource) -> tuple[str, Image.Image]:
    if isinstance(source, Image.Image):
        return "image", source
    name, data = _read(source)
    if not data:
        raise ImageError(f"{name}: the file has zero bytes")
    try:
        return name, opened(data)
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels (decompression bomb?): scale it down") from None
    except Exception as error:  # likewise
        unknown = isinstance(error, UnidentifiedImageError)
        detail = "not an image in a format that Pillow reads" if unknown else one_line(str(error))
        raise ImageError(f"{name}: {detail}") from None


def opened(data: bytes) -> Image.Image:
    """Pillow's image of these bytes, not decoded yet, without its warnings: the size is ours to check.

    Raises:
        Image.DecompressionBombError: it has more than twice `MAX_PIXELS`.
        UnidentifiedImageError: it is no image that Pillow reads.
        Exception: anything else that a decoder raises on damaged bytes, from OSError to struct.error.
    """
    with _quiet():
        return Image.open(io.BytesIO(data))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings, of damaged metadata say: what cannot be read is an error, and the rest is not needed."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(source: str | Path | bytes) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "image bytes", source
    text = str(source)
    if text.startswith("data:"):
        header, comma, body = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ImageError("data URL: only 'data:image/...;base64,...' is read")
        try:
            return "data URL", base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ImageError(f"data URL: not base64 ({error})") from None
    if text.startswith(("http://", "https://")):
        raise ImageError(f"{text}: pictures are not fetched from the network; download it and give the path")
    try:
        return text, FILES.read(text)
    except FileNotFoundError:
        raise ImageError(f"{text}: no such file") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise ImageError(f"{one_line(text)}: {getattr(error, 'strerror', None) or error}") from None


def orientation(image: Image.Image) -> int:
    """EXIF's word on which side is up, and nothing else of it: the rest may be damaged, and is not needed."""
    try:
        with _quiet():
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises anything from struct.error to TypeError
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if getattr(image, "is_animated", False):
        image.seek(0)
    with (
        _quiet() if image.format == "TIFF" else nullcontext()
    ):  # others read no tags here, and may be decoded in parallel
        image.load()  # Pillow turns a TIFF here, and takes its orientation away
    turn = _TURNS.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith(("I", "F")):  # 16-bit and float grey: Pillow's own conversion would clip at 255
        _low, high = (float(v) for v in image.getextrema())  # type: ignore[arg-type]
        top = 65535.0 if high > 255 else 255.0 if high > 1 or image.mode != "F" else 1.0
        image = image.convert("F").point(lambda v: v * (255.0 / top)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    rgb = image.convert("RGB")
    return rgb if rgb is not image else image.copy()
