"""The judge's requests: each paid for once, and charged to the search that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

from structdecode.backends.openai.api import Answer, ChatApi
from structdecode.backends.openai.errors import LostReply, Stopped
from structdecode.backends.openai.requests import Reply, Request, UnusableReply, read_reply
from structdecode.backends.openai.throttle import Throttle
from structdecode.core.budget import Usage
from structdecode.core.errors import BudgetSpent
from structdecode.verifiers.llm_judge.cache import ReplyCache
from structdecode.verifiers.llm_judge.reading import JudgeReply, top_log_probs

Charge = Callable[[Usage], None]

_LEAVING = 5.0
"""Seconds in which requests that nobody waits for any more may end, so that what is paid for is kept."""
_LOOK_AGAIN = 0.05
"""Seconds behind which a reply that another process asks for is looked for again."""


@dataclass(frozen=True)
class Prices:
    """In US dollars for a million tokens."""

    sent: float
    written: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.sent * prompt_tokens + self.written * completion_tokens) / 1e6


@dataclass
class _Bill:
    """One request's. The most that a try can cost is charged before it; one that cost nothing pays for the next."""

    charge: Charge
    held: float = 0.0

    def before_a_try(self, most: float) -> None:
        """Raises `BudgetSpent`."""
        self.charge(Usage(dollars=max(0.0, most - self.held), api_calls=1))
        self.held = max(most, self.held)

    def paid(self, dollars: float) -> None:
        """Raises `BudgetSpent` where it was more than the most, and that is more than is left."""
        if dollars > self.held:
            self.charge(Usage(dollars=dollars - self.held))
        self.held = 0.0

    def lost(self) -> None:
        self.held = 0.0


@dataclass
class JudgeClient:
    """Asks one server, from one event loop. Equal requests in flight are asked once, for whoever asked first.

    Attributes:
        server: its address, for the keys of replies.
        log_probs: False once the server has refused to give log-probabilities.
        _ratio: the most tokens that a prompt had for each that was guessed.
    """

    api: ChatApi
    server: str
    throttle: Throttle
    prices: Prices
    cache: ReplyCache | None
    log_probs: bool = True
    _ratio: float = 1.0
    _asking: dict[str, asyncio.Task[JudgeReply]] = field(default_factory=dict)

    async def ask(self, request: Request, charge: Charge, stop: asyncio.Event) -> JudgeReply:
        """The reply to a request. One that is in the cache, or under way for somebody else, costs nothing.

        A try that is in flight goes on when the caller is cancelled, and its reply is kept; after ``stop`` none begins.

        Raises:
            Unanswered: the server or the network failed at every try.
            BadRequest: the server refuses this request.
            ApiError: it refuses all of them.
            BudgetSpent: the search may not spend what the request can cost.
            Stopped: ``stop`` was set.
        """
        key = blake2b(f"{self.server}\n{request.key}".encode(), digest_size=16).hexdigest()
        while (kept := self._kept(key)) is None:
            task = self._asking.get(key)
            if task is None:
                task = self._asking[key] = asyncio.ensure_future(self._paid(key, request, charge, stop))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to look
                return await asyncio.shield(task)
            await asyncio.wait({task})
            if not task.cancelled() and not isinstance(task.exception(), Stopped | BudgetSpent):
                return task.result()
        return kept

    async def close(self) -> None:
        """Lets what is in flight end, for some seconds."""
        try:
            if self._asking:
                _, left = await asyncio.wait(set(self._asking.values()), timeout=_LEAVING)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
        finally:
            await self.api.close()
            if self.cache is not None:
                self.cache.close()

    async def _paid(self, key: str, request: Request, charge: Charge, stop: asyncio.Event) -> JudgeReply:
        try:
            body = await asyncio.to_thread(request.body)  # encodes pictures
            once = partial(self._once, key, body, request, _Bill(charge), stop)
            return await self.throttle.answered(once, stop)
        finally:
            del self._asking[key]

    async def _once(
        self, key: str, body: Mapping[str, Any], request: Request, bill: _Bill, stop: asyncio.Event
    ) -> JudgeReply:
        """One try, or what another process has paid for meanwhile."""
        while True:
            async with self.throttle.turn(stop):
                with nullcontext(True) if self.cache is None else self.cache.alone(key) as alone:
                    if alone:
                        return self._kept(key) or await self._sent(key, body, request, bill)
            await asyncio.sleep(_LOOK_AGAIN)

    async def _sent(self, key: str, body: Mapping[str, Any], request: Request, bill: _Bill) -> JudgeReply:
        """The reply is on the disk before it counts."""
        bill.before_a_try(self.prices.of(self._ratio * request.prompt_tokens, request.max_tokens))
        try:
            answer = await self.api.post(body, request.extra)
            reply = self._read(answer, request)
        except LostReply:
            bill.lost()
            raise
        found = JudgeReply(reply, top_log_probs(answer.text))
        if self.cache is not None:
            self.cache.add(key, request.model, found)
        self._ratio = max(self._ratio, reply.prompt_tokens / request.prompt_tokens)
        bill.paid(self.prices.of(reply.prompt_tokens, reply.completion_tokens))
        return found

    def _kept(self, key: str) -> JudgeReply | None:
        return None if self.cache is None else self.cache.get(key)

    def _read(self, answer: Answer, request: Request) -> Reply:
        try:
            reply = read_reply(answer.text, request)
        except ValueError as error:
            if isinstance(error, UnusableReply) and (error.prompt_tokens or error.completion_tokens):
                raise LostReply(self.api.safe(answer.told("no chat completion"))) from None
            raise self.api.meaning(answer, error) from None
        clean = self.api.without_key
        return replace(
            reply, text=clean(reply.text), finish=clean(reply.finish), refusal=clean(reply.refusal), id=clean(reply.id)
        )
