"""Money: what replies cost, and a limit that parallel requests cannot overshoot."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from structdecode.backends.openai.errors import Stopped
from structdecode.backends.openai.requests import Purpose, Reply, Request
from structdecode.core.errors import ConfigError
from structdecode.training.annotation.journal import Journal

_PURPOSES: tuple[Purpose, ...] = ("answer", "check")


@dataclass(frozen=True)
class Prices:
    """In dollars (or another currency) for a million tokens; a judge's own where they differ."""

    prompt: float = 0.0
    completion: float = 0.0
    judge_prompt: float | None = None
    judge_completion: float | None = None

    def __post_init__(self) -> None:
        for value in (self.prompt, self.completion, self.judge_prompt, self.judge_completion):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"a price must be 0 or more (for a million tokens), not {value}")

    @property
    def known(self) -> bool:
        return self.prompt > 0 or self.completion > 0

    def of(self, purpose: Purpose, prompt_tokens: float, completion_tokens: float) -> float:
        sent, written = self.prompt, self.completion
        if purpose == "check":
            sent = sent if self.judge_prompt is None else self.judge_prompt
            written = written if self.judge_completion is None else self.judge_completion
        return (sent * prompt_tokens + written * completion_tokens) / 1e6

    def spent(self, journal: Journal) -> float:
        """By all starts of a run together."""
        totals = {purpose: journal.spent(purpose) for purpose in _PURPOSES}
        return sum(self.of(purpose, t.prompt_tokens, t.completion_tokens) for purpose, t in totals.items())


class CostLimiter:
    """Holds back the most that a request can cost before it is sent; what it did cost is booked by the journal.

    The tokens of a prompt are a guess until replies say how many they were; the guess then follows the largest
    ratio seen, so that the limit holds as soon as the first replies are there.
    """

    def __init__(self, prices: Prices, journal: Journal, limit: float | None) -> None:
        self.prices, self.journal, self.limit = prices, journal, limit
        self._held = 0.0
        self._ratio = 1.0
        self._changed = asyncio.Condition()

    @property
    def spent(self) -> float:
        return self.prices.spent(self.journal)

    @asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[None]:
        """Waits while requests in flight may still leave enough.

        Raises:
            Stopped: what is left does not cover this request, and nothing is in flight.
        """
        if self.limit is None:
            yield
            return
        amount = self.prices.of(request.purpose, self._ratio * request.prompt_tokens, request.max_tokens)
        async with self._changed:
            while self.spent + self._held + amount > self.limit:
                if self._held <= 0:
                    raise Stopped(f"the cost limit of {self.limit:g} is reached ({self.spent:.4f} spent)")
                await self._changed.wait()
            self._held += amount
        try:
            yield
        finally:
            async with self._changed:
                self._held = max(0.0, self._held - amount)
                if self._held < 1e-12:
                    self._held = 0.0
                self._changed.notify_all()

    def learn(self, request: Request, reply: Reply) -> None:
        """How good the guess of a prompt's tokens was."""
        if self.limit is not None:
            self._ratio = max(self._ratio, reply.prompt_tokens / max(1, request.prompt_tokens))
