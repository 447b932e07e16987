"""One try of a request to an OpenAI-compatible chat API, through the official client, and what came of it.

The client's own retries are off: who asks knows of the other requests in flight, and of what was paid.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from structdecode.backends.openai.errors import ApiError, BadRequest, LostReply, RateLimited, RequestFailed
from structdecode.backends.openai.requests import ErrorBody, UnusableReply
from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.problems import printable

_FATAL = (401, 403, 404)
_OWN_FAULT = (400, 413, 422)
_SHORTEST_KEY = 12
_LONGEST_ASKED = 86400.0
"""Seconds: a request that a server puts off for more than a day has no further try."""
_LARGEST_REPLY = 16 << 20
"""Bytes of a reply, uncompressed: nothing behind them is read."""


class _TooLarge(Exception):
    """A reply that goes on beyond `_LARGEST_REPLY`."""

    def __init__(self, status: int) -> None:
        self.status = status


async def _read_bounded(response: Any) -> None:
    """A hook of the HTTP client, which would read bodies of any size, of errors too, in the official client's hands."""
    body = bytearray()
    async for part in response.aiter_bytes():  # uncompressed bit by bit
        body += part
        if len(body) > _LARGEST_REPLY:
            raise _TooLarge(response.status_code)
    response._content = bytes(body)  # where the client keeps a body that it read itself


class Answer(NamedTuple):
    """What came back with a status that is no error."""

    text: str
    status: int
    content_type: str

    def told(self, wrong: str) -> str:
        words = " ".join(self.text[:400].split())
        came = f"it begins {words[:80]!r}" if words else "it is empty"
        return (
            f"the reply is {wrong} (HTTP {self.status}, {self.content_type[:40] or 'no content type'}, {came}): "
            "the base URL has to be that of an OpenAI-compatible chat API, most often with /v1 at its end"
        )


class ChatApi:
    """``/chat/completions`` of one server. The key is held by the official client alone, and cut out of messages.

    Raises:
        MissingExtraError: openai is not installed.
        ConfigError: the address cannot be used.
    """

    def __init__(self, base_url: str | None, key: str, timeout: float) -> None:
        try:
            import openai
        except ImportError:
            raise MissingExtraError("openai", "openai") from None
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {base_url}: has to begin with http:// or https://")
        try:
            _ = urlsplit(base_url or os.environ.get("OPENAI_BASE_URL", "")).port
        except ValueError as error:
            raise ConfigError(f"--base-url {base_url or 'in OPENAI_BASE_URL'}: {error}") from None
        if not key.isascii() or not key.isprintable():
            raise ConfigError(
                "OPENAI_API_KEY: holds characters that no key has (quotes of a word processor?): set it anew"
            )
        self._openai = openai
        self._key, self._timeout = key, timeout
        try:
            http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [_read_bounded]})
            self._client = openai.AsyncOpenAI(
                base_url=base_url, api_key=key, max_retries=0, timeout=timeout, http_client=http
            )
        except (ValueError, openai.OpenAIError) as error:
            raise ConfigError(f"--base-url {base_url}: {self.safe(str(error))}") from None

    async def post(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> Answer:
        """The server's answer. One try."""
        openai = self._openai
        try:
            async with asyncio.timeout(self._timeout):  # of all of it: a server may send a byte now and then
                raw = await self._client.chat.completions.with_raw_response.create(
                    **body, extra_body=dict(extra) or None
                )
                return Answer(str(raw.text), raw.status_code, raw.headers.get("content-type", ""))
        except TimeoutError:
            raise LostReply(f"no answer within {self._timeout:g} s") from None
        except _TooLarge as error:
            message = f"HTTP {error.status}: a reply of more than {_LARGEST_REPLY >> 20} MiB"
            raise (BadRequest(message) if error.status < 400 else judged(error.status, message, "", None)) from None
        except openai.APIStatusError as error:
            raise self._judged(error) from None
        except openai.APIError as error:  # no connection, time-out
            failed = LostReply if isinstance(error, openai.APITimeoutError) else RequestFailed
            raise failed(self.safe(f"{type(error).__name__}: {error}")) from None

    def meaning(self, answer: Answer, error: ValueError) -> Exception:
        """What to raise for an answer that `read_reply` cannot read."""
        if isinstance(error, ErrorBody):
            said = self.safe(f"an error in a reply of HTTP 200: {error}")
            return judged(error.status, said, error.kind, None)
        return LostReply(
            self.safe(answer.told("no chat completion" if isinstance(error, UnusableReply) else "not JSON"))
        )

    async def close(self) -> None:
        await self._client.close()

    def _judged(self, error: Any) -> Exception:
        status, wait = error.status_code, retry_after(error.response.headers)
        message = self.safe(f"HTTP {status}: {error.message}")
        return judged(status, message, f"{error.code} {error.message}", wait)

    def without_key(self, text: str) -> str:
        """A server may echo it. What is too short to be one ("none", "EMPTY") may be a word."""
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_KEY else text

    def safe(self, text: str) -> str:
        return printable(" ".join(self.without_key(text).split()))[:300]


def judged(status: int, message: str, kind: str, wait: float | None) -> Exception:
    """What an error of the server's means for the run, by its code."""
    if status == 429 and "insufficient_quota" in kind:
        return ApiError(f"no credit left ({message}): top it up; run the same command again to resume")
    if status == 429:
        return RateLimited(message, wait)
    if status in _FATAL:
        return ApiError(
            f"{message}: check OPENAI_API_KEY, the model's name and the base URL; run the same command again to resume"
        )
    return BadRequest(message) if status in _OWN_FAULT else RequestFailed(message, wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or as a date (RFC 9110).

    Infinite where it asks for more than a day: that is not waited for.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            wait = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= wait < math.inf:
            return wait if wait < _LONGEST_ASKED else math.inf
    try:
        wait = max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return wait if wait < _LONGEST_ASKED else math.inf
