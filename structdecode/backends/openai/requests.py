"""One request to a chat API, known by its content, and the reply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from structdecode.backends.openai.pictures import data_url, size_of
from structdecode.core.images import Picture
from structdecode.core.reading import parse_json

MOST_TOKENS = 100_000_000
"""What a server may count for one request."""

VERSION = 1
"""Part of every key. A change of what a request means asks everything anew."""

Purpose = Literal["answer", "check"]
"""``answer``: by the annotating model · ``check``: by the judge model, for the judge or a verifier."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of a chat; its pictures stand in front of the text.

    Attributes:
        digest: of the pictures' content. A picture itself is read when the request is sent.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: Sequence[Path | Picture] = field(default=(), compare=False)
    digest: str = ""


@dataclass(frozen=True)
class Request:
    """What is asked. Two requests with the same content have the same `key`, and one of them is sent."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    purpose: Purpose = "answer"
    temperature: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        messages = [[m.role, m.text, m.digest] for m in self.messages]
        content = [VERSION, self.model, messages, self.max_tokens, self.temperature, self.seed, dict(self.extra)]
        return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    def body(self) -> dict[str, Any]:
        """The JSON that is sent, pictures in it.

        Raises:
            ImageError: a picture cannot be read.
        """
        body: dict[str, Any] = {"model": self.model, "messages": [_wire(message) for message in self.messages]}
        thinks = self.model.startswith(("o1", "o3", "o4", "gpt-5"))  # these refuse the older name, and temperature
        body["max_completion_tokens" if thinks else "max_tokens"] = self.max_tokens
        if self.temperature is not None and not thinks:
            body["temperature"] = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed
        return body

    @property
    def prompt_tokens(self) -> int:
        """A guess, on the high side: a token for 3 bytes of UTF-8, 8 a message, and the pictures."""
        text = sum(math.ceil(len(m.text.encode("utf-8", "replace")) / 3) + 8 for m in self.messages)
        return text + sum(picture_tokens(*size_of(picture)) for m in self.messages for picture in m.pictures)


def _wire(message: ChatMessage) -> dict[str, Any]:
    if not message.pictures:
        return {"role": message.role, "content": message.text}
    pictures = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in message.pictures]
    return {"role": message.role, "content": [*pictures, {"type": "text", "text": message.text}]}


def picture_tokens(width: int, height: int) -> int:
    """What GPT-4o counts for a picture in high detail: 85 and 170 for each tile of 512 pixels.

    The picture is first fitted into 2048 x 2048, then its shorter side to 768 (OpenAI's guide "Images and vision").
    """
    if min(width, height) < 1:
        return 85 + 170 * 8  # the most that there can be
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


@dataclass(frozen=True)
class Reply:
    """What came back, and was paid for.

    Attributes:
        finish: ``stop``, ``length``, ``content_filter`` or what else the server says. refusal: the model's words.
        id: the server's name for it.
    """

    text: str
    finish: str = "stop"
    refusal: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    id: str = ""


def read_reply(text: str, request: Request) -> Reply:
    """Reads a server's JSON. Where it does not count tokens, they are guessed from the lengths.

    Raises:
        UnusableReply: it is not a chat completion.
        ValueError: it is not JSON.
    """
    data = parse_json(text)
    usage = data.get("usage") if isinstance(data, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    sent, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    try:
        return _completion(data, sent, written, request)
    except UnusableReply as error:
        error.prompt_tokens, error.completion_tokens = _counted(sent, 0), _counted(written, 0)
        raise


def _completion(data: Any, sent: Any, written: Any, request: Request) -> Reply:
    if isinstance(data, dict) and data.get("error") and not data.get("choices"):
        raise ErrorBody(data["error"])
    try:
        choice = data["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish, name = choice.get("finish_reason"), data.get("id")
    except (AttributeError, IndexError, KeyError, TypeError):
        raise UnusableReply("no chat completion") from None
    if isinstance(content, list):  # of parts, as some servers give it
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str | None):
        raise UnusableReply(f"no chat completion: content is a {type(content).__name__}")
    content = _readable(content or "")
    return Reply(
        content, _readable(str(finish or "stop")), _readable(str(refusal or "")),
        _counted(sent or None, request.prompt_tokens), _counted(written or None if content else written, math.ceil(len(content) / 4)),
        _readable(str(name or "")[:200]),
    )  # fmt: skip


def _counted(tokens: Any, guess: int) -> int:
    """What a server says if that can be: below 0 it would pay back, and without end it would end the run."""
    right = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MOST_TOKENS
    return int(tokens) if right else guess


class UnusableReply(ValueError):
    """A reply of HTTP 200 that is no answer. The tokens are those that the server counted for it."""

    prompt_tokens = completion_tokens = 0


class ErrorBody(UnusableReply):
    """A reply of HTTP 200 that holds an error: its code, 500 where it has none, and the server's words."""

    def __init__(self, error: Any) -> None:
        said = error if isinstance(error, Mapping) else {"message": error}
        code = said.get("code") or said.get("status")
        self.status = (
            int(code) if isinstance(code, int | str) and str(code).isdecimal() and len(str(code)) == 3 else 500
        )
        self.kind = f"{said.get('code')} {said.get('type')}"
        super().__init__(str(said.get("message") or said)[:300])


def _readable(text: str) -> str:
    """Without what no file can hold: a lone half of a surrogate pair, which JSON can write."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
