"""Limits and counts: what a search may cost and what it did cost."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from structdecode.errors import BudgetSpent, ConfigError, UnknownNameError

Part = Literal["generator", "verifier"]


@dataclass(frozen=True)
class Usage:
    """What was done. ``cached_tokens`` were in the KV cache already and were not computed again.

    ``verifier_calls`` are candidates that a verifier was asked about; ``verifier_calls_saved`` had the same content as
    one of those and share its score.
    """

    generated_tokens: int = 0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    images_encoded: int = 0
    model_calls: int = 0
    verifier_calls: int = 0
    verifier_calls_saved: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """Limits on a search, None for no limit. Generator and verifier draw on the same ones.

    Attributes:
        tokens: generated tokens. prefill_tokens: prompt tokens computed. model_calls: forward requests
            (one for a batch of candidates). verifier_calls: different candidates scored. seconds: wall clock.
    """

    tokens: int | None = None
    prefill_tokens: int | None = None
    model_calls: int | None = None
    verifier_calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not value >= 0:
                raise ConfigError(f"budget {f.name} must be 0 or more, not {value}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads ``tokens=2000,seconds=30``.

        Raises:
            ConfigError: an unknown limit or a value that is not a number.
        """
        known = {f.name: float if f.name == "seconds" else int for f in fields(cls)}
        limits: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition("=")
            if name not in known:
                raise UnknownNameError("budget", name, known)
            try:
                limits[name] = known[name](value)
            except ValueError:
                raise ConfigError(f"budget {name} must be a number, not {value!r}") from None
        return cls(**limits)  # type: ignore[arg-type]


_COUNTED_BY = {
    "tokens": "generated_tokens",
    "prefill_tokens": "prefilled_tokens",
    "model_calls": "model_calls",
    "verifier_calls": "verifier_calls",
}


class Meter:
    """One search's account. Tokens are reserved before a call, so that parallel calls cannot overshoot either."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.parts: dict[Part, Usage] = {"generator": Usage(), "verifier": Usage()}
        self.stopped_by: str | None = None
        self._held = {"tokens": 0, "model_calls": 0}
        self._admitted = 0
        self._lock = threading.Lock()
        self._start = time.monotonic()

    @property
    def usage(self) -> Usage:
        total = self.parts["generator"] + self.parts["verifier"]
        return replace(total, seconds=time.monotonic() - self._start)

    @property
    def deadline(self) -> float | None:
        """In `time.monotonic` seconds."""
        return None if self.budget.seconds is None else self._start + self.budget.seconds

    @property
    def late(self) -> str | None:
        """``seconds`` once the time is up."""
        return "seconds" if self.deadline is not None and time.monotonic() >= self.deadline else None

    @property
    def remaining(self) -> Budget:
        used, left = self.usage, {}
        for limit, count in _COUNTED_BY.items():
            allowed = getattr(self.budget, limit)
            taken = self._admitted if limit == "prefill_tokens" else getattr(used, count) + self._held.get(limit, 0)
            left[limit] = None if allowed is None else max(0, allowed - taken)
        seconds = None if self.budget.seconds is None else max(0.0, self.budget.seconds - used.seconds)
        return Budget(**left, seconds=seconds)

    def check(self, *limits: str) -> None:
        """Raises `BudgetSpent` where one of the named limits (or the time) has nothing left."""
        left = self.remaining
        for limit in (*limits, "seconds"):
            if getattr(left, limit) == 0:
                self.stopped_by = self.stopped_by or limit
                raise BudgetSpent(limit)

    def reserve(self, rows: int, wanted: int) -> list[int]:
        """Token limits for ``rows`` generations of up to ``wanted`` tokens each, shared out evenly.

        A row that gets less than 1 cannot run; the caller drops it. Holds one model call too; `settle` gives both
        back.
        """
        self.check("tokens", "model_calls")
        left = self.remaining.tokens
        limits = [wanted] * rows
        if left is not None and left < wanted * rows:
            limits = [left // rows + (row < left % rows) for row in range(rows)]
            limits = [min(wanted, limit) for limit in limits]
        self._held["tokens"] += sum(limits)
        self._held["model_calls"] += 1
        return limits

    def hold_call(self) -> None:
        """Holds one model call that generates nothing; settle it with 0 tokens."""
        self.check("model_calls", "prefill_tokens")
        self._held["model_calls"] += 1

    def settle(self, reserved: int, used: Usage, part: Part) -> None:
        """Gives a reservation back and books what was really used."""
        self._held["tokens"] -= reserved
        self._held["model_calls"] -= 1
        self.charge(used, part)

    def admit(self, tokens: int) -> None:
        """Asked by a backend right before it computes prompt tokens; any thread.

        Raises:
            BudgetSpent: there is no room for them; then nothing is to be computed.
        """
        with self._lock:
            limit = self.budget.prefill_tokens
            if limit is not None and self._admitted + tokens > limit:
                self.stopped_by = self.stopped_by or "prefill_tokens"
                raise BudgetSpent("prefill_tokens")
            self._admitted += tokens

    def spend(self, wanted: Usage, part: Part) -> None:
        """Books work of a known size that is about to be done.

        Raises:
            BudgetSpent: there is no room for all of it; then none of it is to be done.
        """
        self.check()
        left = self.remaining
        for limit, count in _COUNTED_BY.items():
            room, amount = getattr(left, limit), getattr(wanted, count)
            if room is not None and amount > room:
                self.stopped_by = self.stopped_by or limit
                raise BudgetSpent(limit)
        self.admit(wanted.prefilled_tokens)
        self.charge(wanted, part)

    def charge(self, used: Usage, part: Part) -> None:
        self.parts[part] += replace(used, seconds=0.0)
