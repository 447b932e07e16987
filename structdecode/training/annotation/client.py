"""Requests to a chat API, each paid for once.

A rate limit that one request meets holds back all of them for as long as the server says, and each waits with
exponential back-off and jitter behind that.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from structdecode.backends.openai.api import ChatApi, judged
from structdecode.backends.openai.errors import ApiError, BadRequest, RateLimited, RequestFailed
from structdecode.backends.openai.requests import ErrorBody, Reply, Request, UnusableReply, read_reply
from structdecode.training.annotation.costs import CostLimiter
from structdecode.training.annotation.errors import NotInJournal, Stopped, Unanswered
from structdecode.training.annotation.journal import REFUSED, UNUSABLE, Journal

_LONGEST_WAIT = 60.0

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
            except RateLimited as error:
                limited += 1
                reason, wait = error, error.wait
            except (RequestFailed, ValueError) as error:
                failures += 1
                reason, wait = error, getattr(error, "wait", None)
            except BadRequest as error:
                self.journal.add(request, Reply("", REFUSED, str(error)))
                self._count_refusal(error)
                raise
            if failures >= self.tries or limited >= 10 * self.tries or wait == math.inf:
                raise self._given_up(failures + limited, reason)
            await self._back_off(failures + limited, wait, everyone=isinstance(reason, RateLimited))

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
                    raise judged(error.status, said, error.kind, None) from None
                raise RequestFailed(self.api.safe(answer.told("no chat completion"))) from None
            except ValueError:
                raise RequestFailed(self.api.safe(answer.told("not JSON"))) from None
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
