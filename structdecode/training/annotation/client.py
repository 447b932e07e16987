"""Requests to an OpenAI-compatible chat API, through the official client, each paid for once.

The client's own retries are off: they know nothing of the other requests in flight. Here a rate limit that one
request meets holds back all of them for as long as the server says, and each waits with exponential back-off and
jitter behind that.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.problems import printable
from structdecode.training.annotation.costs import CostLimiter
from structdecode.training.annotation.errors import ApiError, BadRequest, NotInJournal, Stopped, Unanswered
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.requests import (
    REFUSED,
    UNUSABLE,
    ErrorBody,
    Reply,
    Request,
    UnusableReply,
    read_reply,
)

_FATAL = (401, 403, 404)
_OWN_FAULT = (400, 413, 422)
_LONGEST_WAIT = 60.0
_SHORTEST_KEY = 12
_LONGEST_ASKED = 86400.0
"""Seconds: a request that a server puts off for more than a day has no further try."""
_LARGEST_REPLY = 16 << 20
"""Bytes of a reply, uncompressed: nothing behind them is read."""

_ALL_REFUSED = 20
"""So many refused requests before the first answered one end the run: then it is not the requests' content."""

_ALL_SILENT = 20
"""So many requests in a row without an answer, each after all its tries, end the run: the server is gone."""


class ChatClient(Protocol):
    """Answers requests: `Client`, or `JournalClient`."""

    async def ask(self, request: Request) -> Reply: ...


class JournalClient:
    """Knows the replies in the journal and sends nothing."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def ask(self, request: Request) -> Reply:
        """Raises `NotInJournal` where the journal has no reply, `BadRequest` where the server refused the request."""
        reply = _kept(self.journal, request)
        if reply is None:
            raise NotInJournal(request.key)
        return reply


def _kept(journal: Journal, request: Request) -> Reply | None:
    """The reply in the journal. Raises `BadRequest` where the server refused the request."""
    reply = journal.get(request.key)
    if reply is not None and reply.finish == REFUSED:
        raise BadRequest(reply.refusal)
    return reply


class Client:
    """Looks into the journal first; asks the API for what is not there.

    Args:
        tries: of one request at errors of the server or the network (a rate limit may say no ten times as often).
        stop: once set, nothing new is sent; what is in flight is waited for.
    """

    def __init__(
        self, api: ChatApi, journal: Journal, limiter: CostLimiter, *, concurrency: int, tries: int = 6
    ) -> None:
        self.api, self.journal, self.limiter, self.tries = api, journal, limiter, tries
        self.stop = asyncio.Event()
        self._slots = asyncio.Semaphore(concurrency)
        self._asking: dict[str, asyncio.Event] = {}
        self._not_before = 0.0
        self._random = random.Random()  # jitter only: no result depends on it
        self._refused, self._silent = -1 if journal.answered else 0, 0

    @property
    def waiting(self) -> float:
        """Seconds until a rate limit lets requests go again."""
        return max(0.0, self._not_before - time.monotonic())

    async def ask(self, request: Request) -> Reply:
        """The reply to a request, from the journal where it was paid for already.

        Raises:
            Stopped: it would have to be sent, and nothing more is to be.
            Unanswered: the server or the network failed at every try.
            BadRequest: the server refuses this request.
            ApiError: it refuses all of them.
            ImageError: a picture in it cannot be read.
        """
        while True:
            reply = _kept(self.journal, request)
            if reply is not None:
                return reply
            other = self._asking.get(request.key)
            if other is None:
                break
            await other.wait()  # the same content is under way; then it is in the journal, or it is our turn
        if self.stop.is_set():
            raise Stopped("stopped")
        done = self._asking[request.key] = asyncio.Event()
        try:
            return await self._answered(request)
        finally:
            del self._asking[request.key]
            done.set()

    async def _answered(self, request: Request) -> Reply:
        body = await asyncio.to_thread(request.body)  # reads and may convert a picture
        failures = limited = 0
        reason: Exception
        wait: float | None
        while True:
            try:
                reply = await self._once(body, request)
                self._refused, self._silent = -1, 0
                return reply
            except _RateLimited as error:
                limited += 1
                reason, wait = error, error.wait
            except (_Failed, ValueError) as error:
                failures += 1
                reason, wait = error, getattr(error, "wait", None)
            except BadRequest as error:
                self.journal.add(request, Reply("", REFUSED, str(error)))
                self._count_refusal(error)
                raise
            if failures >= self.tries or limited >= 10 * self.tries or wait == math.inf:
                raise self._given_up(failures + limited, reason)
            await self._back_off(failures + limited, wait, everyone=isinstance(reason, _RateLimited))

    async def _once(self, body: Mapping[str, Any], request: Request) -> Reply:
        """One try. What it cost is in the journal before the purse lets go of what it held back for it."""
        async with self.limiter.hold(request), self._slots:
            await self._until_allowed()
            answer = await self.api.post(body, request.extra)
            try:
                reply = read_reply(answer.text, request)
            except UnusableReply as error:
                if error.prompt_tokens or error.completion_tokens:
                    self._keep(request, Reply("", UNUSABLE, "", error.prompt_tokens, error.completion_tokens))
                if isinstance(error, ErrorBody):
                    said = self.api.safe(f"an error in a reply of HTTP 200: {error}")
                    raise _judged(error.status, said, error.kind, None) from None
                raise _Failed(self.api.safe(answer.told("no chat completion"))) from None
            except ValueError:
                raise _Failed(self.api.safe(answer.told("not JSON"))) from None
            reply = replace(reply, text=self.api.without_key(reply.text), refusal=self.api.without_key(reply.refusal))
            self._keep(request, reply)
            return reply

    def _keep(self, request: Request, reply: Reply) -> None:
        self.journal.add(request, reply)
        self.limiter.learn(request, reply)

    def _given_up(self, tries: int, reason: Exception) -> Exception:
        self._silent += 1
        if self._silent < _ALL_SILENT:
            return Unanswered(f"no answer after {tries} tries ({reason})")
        return ApiError(
            f"{self._silent} requests in a row had no answer ({reason}): check --base-url; run the same command again to resume"
        )

    def _count_refusal(self, error: BadRequest) -> None:
        if self._refused < 0:
            return
        self._refused += 1
        if self._refused >= _ALL_REFUSED:
            self._refused = 0
            raise ApiError(
                f"the first {_ALL_REFUSED} requests were all refused: {error}: the same command resumes behind them; delete "
                f"{self.journal.path} to ask them again"
            ) from None

    async def _until_allowed(self) -> None:
        while self.waiting > 0:
            await self._sleep(self.waiting + self._random.uniform(0, 0.05))
        if self.stop.is_set():
            raise Stopped("stopped")

    async def _back_off(self, number: int, wait: float | None, *, everyone: bool) -> None:
        """What the server says, else 1, 2, 4, ... seconds, between half and the whole of it by chance."""
        delay = min(_LONGEST_WAIT, 2.0 ** min(number - 1, 10)) * self._random.uniform(0.5, 1.0)
        if wait is not None:
            delay = max(0.0, wait) + self._random.uniform(0, 0.1)
        if everyone:
            self._not_before = max(self._not_before, time.monotonic() + delay)
        await self._sleep(delay)

    async def _sleep(self, seconds: float) -> None:
        """Raises `Stopped` as soon as nothing more is to be sent."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped("stopped")


# ------------------------------------------------------------------ the network


class _Failed(Exception):
    """The server or the network failed; the same request may be answered later."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _RateLimited(_Failed):
    pass


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


class _Answer(NamedTuple):
    """What came back with a status that is no error."""

    text: str
    status: int
    content_type: str

    def told(self, wrong: str) -> str:
        words = " ".join(self.text[:400].split())
        came = f"it begins {words[:80]!r}" if words else "it is empty"
        return (
            f"the reply is {wrong} (HTTP {self.status}, {self.content_type[:40] or 'no content type'}, {came}): "
            "--base-url has to be that of an OpenAI-compatible chat API, most often with /v1 at its end"
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

    async def post(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> _Answer:
        """The server's answer. One try."""
        openai = self._openai
        try:
            async with asyncio.timeout(self._timeout):  # of all of it: a server may send a byte now and then
                raw = await self._client.chat.completions.with_raw_response.create(
                    **body, extra_body=dict(extra) or None
                )
                return _Answer(str(raw.text), raw.status_code, raw.headers.get("content-type", ""))
        except TimeoutError:
            raise _Failed(f"no answer within {self._timeout:g} s") from None
        except _TooLarge as error:
            message = f"HTTP {error.status}: a reply of more than {_LARGEST_REPLY >> 20} MiB"
            raise (BadRequest(message) if error.status < 400 else _judged(error.status, message, "", None)) from None
        except openai.APIStatusError as error:
            raise self._judged(error) from None
        except openai.APIError as error:  # no connection, time-out
            raise _Failed(self.safe(f"{type(error).__name__}: {error}")) from None

    async def close(self) -> None:
        await self._client.close()

    def _judged(self, error: Any) -> Exception:
        status, wait = error.status_code, retry_after(error.response.headers)
        message = self.safe(f"HTTP {status}: {error.message}")
        return _judged(status, message, f"{error.code} {error.message}", wait)

    def without_key(self, text: str) -> str:
        """A server may echo it. What is too short to be one ("none", "EMPTY") may be a word."""
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_KEY else text

    def safe(self, text: str) -> str:
        return printable(" ".join(self.without_key(text).split()))[:300]


def _judged(status: int, message: str, kind: str, wait: float | None) -> Exception:
    """What an error of the server's means for the run, by its code."""
    if status == 429 and "insufficient_quota" in kind:
        return ApiError(f"no credit left ({message}): top it up; run the same command again to resume")
    if status == 429:
        return _RateLimited(message, wait)
    if status in _FATAL:
        return ApiError(
            f"{message}: check OPENAI_API_KEY, --model and --base-url; run the same command again to resume"
        )
    return BadRequest(message) if status in _OWN_FAULT else _Failed(message, wait)


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
