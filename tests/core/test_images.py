from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from structdecode.core.errors import ImageError
from structdecode.core.images import load_picture


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8), "RGB")


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = ((13, chunk), (len(data) - 4, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", n) + c + struct.pack(">I", zlib.crc32(c)) for n, c in chunks
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "zero bytes"),
        (b"hello, this is text", "not an image"),
        (encoded(NOISE)[:600], "truncated"),
        (encoded(NOISE, "JPEG")[:400], "(?i)truncated"),
        (bomb(), "decompression bomb"),
    ],
    ids=["empty", "text", "truncated png", "truncated jpeg", "bomb"],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        load_picture(path)
    assert "picture.png" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=message):
        load_picture(data)


def test_missing_file_directory_and_network(tmp_path: Path) -> None:
    for source, message in (
        (tmp_path / "no.png", "no such file"),
        (tmp_path, "directory"),
        ("https://x/y.png", "not fetched"),
    ):
        with pytest.raises(ImageError, match=message):
            load_picture(source)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    palette = NOISE.quantize(8)
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    for image, kind in (
        (deep, "PNG"),
        (palette, "PNG"),
        (NOISE.convert("CMYK"), "JPEG"),
        (NOISE.convert("L"), "PNG"),
        (NOISE.convert("1"), "PNG"),
    ):
        picture = load_picture(encoded(image, kind))
        assert picture.image.mode == "RGB" and picture.image.size == image.size
    values = np.asarray(load_picture(encoded(deep)).image)[..., 0]
    assert values.min() < 3 and values.max() > 252 and len(np.unique(values)) > 200  # scaled, not clipped
    assert load_picture(encoded(transparent)).image.getpixel((0, 0)) == (255, 255, 255)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_picture(data).image.getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_picture(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).image.size == (10, 20)


def test_data_urls(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(encoded(NOISE)).decode()
    assert load_picture(url) == load_picture(NOISE)
    for wrong in ("data:image/png;base64,@@@", "data:image/png,plain"):
        with pytest.raises(ImageError, match="data URL"):
            load_picture(wrong)


def test_same_pixels_same_digest() -> None:
    other = NOISE.copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert load_picture(encoded(NOISE)).digest == load_picture(NOISE).digest != load_picture(other).digest


# ------------------------------------------------------------------ EXIF of strangers

ODD_TAGS: dict[str, tuple[int, int, int, bytes]] = {
    "ResolutionUnit a negative short": (0x0128, 8, 1, b"\xfd\xff\x00\x00"), "a tag of no known type": (0x0128, 99, 1, b"\0\0\0\0"),
    "a text without end": (0x010E, 2, 10**6, b"\x08\0\0\0"), "a rational by zero": (0x011A, 5, 1, b"\x08\0\0\0"),
    "a byte for a short": (0x0128, 1, 1, b"\x02\0\0\0"), "a float": (0x0128, 11, 1, b"\0\0\xc0\x7f"), "a signed long": (0x0128, 9, 1, b"\xff\xff\xff\xff"),
    "an undefined": (0x9286, 7, 4, b"abcd"), "an offset beyond the end": (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
    "a double beyond the end": (0x0128, 12, 3, b"\xff\0\0\0"), "no values": (0x0128, 3, 0, b"\0\0\0\0"),
}  # fmt: skip


def odd_exif(orientation: int, odd: tuple[int, int, int, bytes]) -> bytes:
    tag, kind, count, value = odd
    entries = sorted([(0x0112, 3, 1, orientation.to_bytes(2, "little") + b"\0\0"), (tag, kind, count, value)])
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", ODD_TAGS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_by_its_orientation_alone(orientation: int, odd: str) -> None:
    scene = Image.effect_noise((6, 4), 80).convert("RGB").resize((48, 32), Image.Resampling.NEAREST)
    stored, plain = io.BytesIO(), io.BytesIO()
    scene.save(stored, "JPEG", exif=odd_exif(orientation, ODD_TAGS[odd]), quality=95)
    scene.save(plain, "JPEG", quality=95)
    upright = Image.Exif()
    upright[0x0112] = orientation
    clean = io.BytesIO()
    scene.save(clean, "JPEG", exif=upright, quality=95)
    expected = ImageOps.exif_transpose(Image.open(clean)).convert("RGB")
    assert load_picture(stored.getvalue()).image.tobytes() == expected.tobytes()


def test_orientations_that_are_none_turn_nothing() -> None:
    scene = Image.effect_noise((48, 32), 80).convert("RGB")
    for orientation in (0, 9, 65535):
        stored = io.BytesIO()
        scene.save(stored, "PNG", exif=odd_exif(orientation, ODD_TAGS["no values"])[6:])
        assert load_picture(stored.getvalue()).image.tobytes() == scene.tobytes()


def test_a_picture_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_picture(tmp_path / "pipe.png")
    with pytest.raises(ImageError):
        load_picture(tmp_path)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="more than"):
        load_picture(tmp_path / "large.png")
    with pytest.raises(ImageError):
        load_picture("a\0b.png")


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_once(orientation: int, kind: str) -> None:
    scene = Image.new("RGB", (48, 32))
    scene.paste((255, 255, 255), (0, 0, 12, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    scene.save(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(stored.getvalue()))).convert("RGB")
    found = load_picture(stored.getvalue()).image
    assert found.size == expected.size and found.tobytes() == expected.tobytes()
