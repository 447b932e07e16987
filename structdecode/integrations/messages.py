"""From a harness's chat messages to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from structdecode.core.errors import ConfigError, PromptError
from structdecode.core.images import ImageSource
from structdecode.core.types import Message, Prompt

_REFUSED = ("video", "audio")


def prompt_from_messages(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """A prompt from turns with ``role`` and ``content``, oldest first; the last one is the question.

    Pictures of all turns go in front of the first user turn's text, in their order: a `Prompt` has no other place for
    them. A text that names its pictures by number ("the second picture") keeps its sense, one that relies on where they
    stood does not.

    Args:
        messages: content is text or a list of parts, see `read_parts`.

    Raises:
        PromptError: there is no question, or a part is of an unknown kind.
        ImageError: a picture cannot be used.
        ConfigError: a part is video or audio. That is a matter of the whole task, not of one question.
    """
    turns: list[Message] = []
    pictures: list[ImageSource] = []
    for message in messages:
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise PromptError(f"a turn's role must be user, assistant or system, not {role!r}")
        text, images = read_parts(message.get("content", ""))
        turns.append(Message(role, text))
        pictures += images
    if not turns or turns[-1].role != "user":
        raise PromptError(f"the last of {len(turns)} turns must be the user's question")
    return Prompt(turns[-1].text, pictures, turns[:-1])


def read_parts(content: str | Sequence[Mapping[str, Any]]) -> tuple[str, list[ImageSource]]:
    """The text of one turn, its pieces joined by line breaks, and its pictures.

    Args:
        content: text, or parts with a ``type`` and ``text`` or ``url`` (lmms-eval), or ``value`` (VLMEvalKit).

    Raises:
        PromptError, ConfigError: as in `prompt_from_messages`.
    """
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[ImageSource] = []
    for part in content:
        kind = part.get("type")
        if kind == "text":
            texts.append(str(part.get("text", part.get("value", ""))))
        elif kind == "image":
            images.append(_source(part.get("url", part.get("value"))))
        elif kind in _REFUSED:
            raise ConfigError(f"{kind} is not supported: structdecode reads text and pictures; choose another task")
        else:
            raise PromptError(f"a message's part must be text or image, not {kind!r}")
    return "\n".join(text for text in texts if text), images


def _source(value: Any) -> ImageSource:
    from pathlib import Path

    from PIL import Image

    if not isinstance(value, str | bytes | Path | Image.Image):
        raise PromptError(f"a picture must be a PIL image, a path, bytes or a data URL, not {type(value).__name__}")
    return value
