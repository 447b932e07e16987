from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.core.errors import ConfigError, ImageError, PromptError
from structdecode.core.images import load_picture
from structdecode.core.types import Message
from structdecode.integrations.messages import prompt_from_messages

RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(value: Any) -> dict[str, Any]:
    return {"type": "image", "url": value}


def test_one_turn_of_lmms_eval() -> None:
    prompt = prompt_from_messages([{"role": "user", "content": [image(RED), image(BLUE), text("Which is red?")]}])
    assert prompt.question == "Which is red?" and prompt.history == ()
    assert [p.image.getpixel((0, 0)) for p in prompt.images] == [(255, 0, 0), (0, 0, 255)]


def test_one_turn_of_vlmevalkit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    RED.save(path)
    parts = [{"type": "image", "value": str(path)}, {"type": "text", "value": "What colour?"}]
    prompt = prompt_from_messages([{"role": "user", "content": parts}])
    assert prompt.question == "What colour?" and prompt.images[0].image.getpixel((0, 0)) == (255, 0, 0)


def test_turns_keep_their_order_and_pictures_theirs() -> None:
    prompt = prompt_from_messages(
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [image(RED), text("Colour?")]},
            {"role": "assistant", "content": [text("Red.")]},
            {"role": "user", "content": [text("And of"), image(BLUE), text("this?")]},
        ]
    )
    assert prompt.history == (Message("system", "Be short."), Message("user", "Colour?"), Message("assistant", "Red."))
    assert prompt.question == "And of\nthis?"
    assert [p.image.getpixel((0, 0)) for p in prompt.images] == [(255, 0, 0), (0, 0, 255)]


def test_pictures_in_every_form() -> None:
    stored = io.BytesIO()
    RED.save(stored, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
    parts = [image(RED), image(stored.getvalue()), image(url), text("?")]
    prompt = prompt_from_messages([{"role": "user", "content": parts}])
    assert [picture.digest for picture in prompt.images] == [load_picture(RED).digest] * 3


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_video_and_audio_are_refused_in_one_line(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"^{kind} is not supported.*another task$"):
        prompt_from_messages([{"role": "user", "content": [{"type": kind, "url": "a"}, text("What?")]}])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the last of 0 turns must be the user's"),
        ([{"role": "assistant", "content": "Hi"}], "must be the user's"),
        ([{"role": "tool", "content": "Hi"}], "not 'tool'"),
        ([{"role": "user", "content": []}], "empty"),
        ([{"role": "user", "content": [image(RED)]}], "empty"),
        ([{"role": "user", "content": [{"type": "pdf", "url": "x"}]}], "not 'pdf'"),
        ([{"role": "user", "content": [image(None), text("?")]}], "not NoneType"),
    ],
)
def test_what_cannot_be_asked(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompt_from_messages(messages)


def test_a_broken_picture() -> None:
    with pytest.raises(ImageError):
        prompt_from_messages([{"role": "user", "content": [image(b"no picture"), text("?")]}])
