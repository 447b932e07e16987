"""Requests to a chat API, each paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.errors import ApiError, BadRequest, Stopped, Unanswered
from structdecode.backends.openai.requests import Reply, Request, UnusableReply, read_reply
from structdecode.backends.openai.throttle import Throttle
from structdecode.training.annotation.costs import CostLimiter
from structdecode.training.annotation.errors import NotInJournal
from structdecode.training.annotation.journal import REFUSED, UNUSABLE, Journal

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
        self.api, self.journal, self.limiter = api, journal, limiter
        self.stop = asyncio.Event()
        self._throttle = Throttle(concurrency=concurrency, tries=tries)
        self._asking: dict[str, asyncio.Event] = {}
        self._refused, self._silent = -1 if journal.answered else 0, 0

    @property
    def waiting(self) -> float:
        """Seconds until a rate limit lets requests go again."""
        return self._throttle.waiting

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
        try:
            reply = await self._throttle.answered(partial(self._once, body, request), self.stop)
        except BadRequest as error:
            self.journal.add(request, Reply("", REFUSED, str(error)))
            self._count_refusal(error)
            raise
        except Unanswered as error:
            self._count_silence(error)
            raise
        self._refused, self._silent = -1, 0
        return reply

    async def _once(self, body: Mapping[str, Any], request: Request) -> Reply:
        """One try. What it cost is in the journal before the purse lets go of what it held back for it."""
        async with self.limiter.hold(request), self._throttle.turn(self.stop):
            answer = await self.api.post(body, request.extra)
            try:
                reply = read_reply(answer.text, request)
            except ValueError as error:
                if isinstance(error, UnusableReply) and (error.prompt_tokens or error.completion_tokens):
                    self._keep(request, Reply("", UNUSABLE, "", error.prompt_tokens, error.completion_tokens))
                raise self.api.meaning(answer, error) from None
            reply = replace(reply, text=self.api.without_key(reply.text), refusal=self.api.without_key(reply.refusal))
            self._keep(request, reply)
            return reply

    def _keep(self, request: Request, reply: Reply) -> None:
        self.journal.add(request, reply)
        self.limiter.learn(request, reply)

    def _count_silence(self, error: Unanswered) -> None:
        self._silent += 1
        if self._silent >= _ALL_SILENT:
            raise ApiError(
                f"{self._silent} requests in a row had no answer, the last one: {error}: check --base-url; run the same "
                "command again to resume"
            ) from None

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
