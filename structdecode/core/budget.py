"""Limits and counts: what a search may cost and what it did cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, NoReturn

from structdecode.core.errors import BudgetSpent, ConfigError, UnknownNameError
from structdecode.core.reading import short_repr
from structdecode.core.settings import check_settings

if TYPE_CHECKING:
    from structdecode.core.protocols import Account

Part = Literal["generator", "verifier"]


@dataclass(frozen=True)
class Usage:
    """What was done. ``cached_tokens`` were in the KV cache already and were not computed again.

    ``verifier_calls`` are candidates that a verifier was asked about; ``verifier_calls_saved`` had the same content as
    one of those and share its score.

    Costs beside the search's own model: ``dollars`` (US dollars), ``api_calls`` (requests to a service), and ``flops`` of
    a verifier's own model, for the tokens and pictures in the same `Usage`.
    """

    generated_tokens: int = 0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    images_encoded: int = 0
    model_calls: int = 0
    verifier_calls: int = 0
    verifier_calls_saved: int = 0
    seconds: float = 0.0
    dollars: float = 0.0
    api_calls: int = 0
    flops: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """Counts by name; costs beside the search's own model where there are any."""
        return {name: value for name, value in asdict(self).items() if value or name not in OUTSIDE}

    @property
    def outside(self) -> dict[str, float]:
        """The costs beside the search's own model that are not 0, by name."""
        return {name: value for name in OUTSIDE if (value := getattr(self, name))}


OUTSIDE = ("dollars", "api_calls", "flops")
"""Fields of `Usage`: costs beside the search's own model. They are shown where they are not 0."""


MOST = 10**15
"""The largest limit, of anything: no search comes near it, and counts up to here are exact as floats."""


@dataclass(frozen=True)
class Budget:
    """Limits on a search, None for no limit. Generator and verifier draw on the same ones.

    Attributes:
        tokens: generated tokens. prefill_tokens: prompt tokens computed: what a prefix cache has is free, so what was
            asked before may decide whether this limit is met (comparisons give each search a cache of its own).
            model_calls: forward requests (one for a batch of candidates). verifier_calls: different candidates scored. seconds: wall clock.
        dollars: US dollars that verifiers say they spend (`Model.charge`).
    """

    tokens: int | None = None
    prefill_tokens: int | None = None
    model_calls: int | None = None
    verifier_calls: int | None = None
    seconds: float | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, "budget")
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value < 0:
                raise ConfigError(f"budget: {f.name} must be 0 or more, not {short_repr(value)}")
            if value is not None and value > MOST:
                shown = short_repr(value)
                raise ConfigError(f"budget: {f.name} must be at most {MOST:,}, or None for no limit, not {shown}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads ``tokens=2000,seconds=30``.

        Raises:
            ConfigError: an unknown limit or a value that is not a number.
        """
        known = {f.name: float if f.name in ("seconds", "dollars") else int for f in fields(cls)}
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
    "dollars": "dollars",
}

_ROUNDING = 1e-9
"""The share of a limit in dollars by which a sum of floats may be above it: three times 0.1 is within 0.3."""


class Meter:
    """One search's accounts. Tokens are reserved before a call, so that parallel calls cannot overshoot either.

    Work is charged as it arises, from any thread, and stays charged whatever becomes of who asked for it. Tokens that
    are drawn once more because memory ran out in the middle count once.

    Attributes:
        own_models: the sum of the charges that say their FLOPs: work of verifiers' own models.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.stopped_by: str | None = None
        self.own_models = Usage()
        self._parts: dict[Part, Usage] = {"generator": Usage(), "verifier": Usage()}
        self._clocks: dict[Part, _Clock] = {"generator": _Clock(), "verifier": _Clock()}
        self._held = {"tokens": 0, "model_calls": 0}
        self._lock = threading.RLock()
        self._start = time.monotonic()

    @property
    def parts(self) -> dict[Part, Usage]:
        """By part. ``seconds`` are those in which the part had work under way; both parts may at once."""
        with self._lock:
            return {part: replace(used, seconds=self._clocks[part].seconds) for part, used in self._parts.items()}

    @property
    def usage(self) -> Usage:
        """Together; ``seconds`` since the search began."""
        with self._lock:
            total = self._parts["generator"] + self._parts["verifier"]
        return replace(total, seconds=time.monotonic() - self._start)

    @property
    def deadline(self) -> float | None:
        """In `time.monotonic` seconds."""
        return None if self.budget.seconds is None else self._start + self.budget.seconds

    @property
    def deadline_passed(self) -> str | None:
        """``seconds`` once the time is up."""
        return "seconds" if self.deadline is not None and time.monotonic() >= self.deadline else None

    @property
    def busy(self) -> bool:
        """Whether the model or a verifier is at work."""
        with self._lock:
            return any(clock.under_way for clock in self._clocks.values())

    @property
    def remaining(self) -> Budget:
        """What is left beside what is reserved."""
        with self._lock:
            used, left = self.usage, {}
            for limit, count in _COUNTED_BY.items():
                allowed = getattr(self.budget, limit)
                taken = getattr(used, count) + self._held.get(limit, 0)
                left[limit] = None if allowed is None else max(0, allowed - taken)
        seconds = None if self.budget.seconds is None else max(0.0, self.budget.seconds - used.seconds)
        return Budget(**left, seconds=seconds)

    def check(self, *limits: str) -> None:
        """Raises `BudgetSpent` where one of the named limits (or the time) has nothing left."""
        left = self.remaining
        for limit in (*limits, "seconds"):
            if getattr(left, limit) == 0:
                self._spent(limit)

    @contextmanager
    def call(
        self, part: Part, rows: int = 0, wanted: int = 0, flops: Callable[[Usage], float] | None = None
    ) -> Iterator[Call]:
        """A call of the model: holds one, and tokens for ``rows`` generations of up to ``wanted`` each.

        What is not charged by its end is free again.

        Args:
            flops: of a piece of work, where the model is a verifier's own.

        Raises:
            BudgetSpent: there are no calls left, or no tokens where some are to be generated (no prompt tokens where
                none are).
        """
        with self._lock:
            self.check("model_calls", "tokens" if rows else "prefill_tokens")
            limits = _shared_out(self.remaining.tokens, rows, wanted)
            held = Call(self, part, limits, flops)
            self._hold("tokens", sum(limits))
            self._hold("model_calls", 1)
        with self.working(part):
            try:
                yield held
            finally:
                held.release()

    @contextmanager
    def working(self, part: Part) -> Iterator[None]:
        """Time in here is the part's."""
        with self._lock:
            self._clocks[part].begin()
        try:
            yield
        finally:
            with self._lock:
                self._clocks[part].end()

    def spend(self, wanted: Usage, part: Part) -> None:
        """Charges work of a known size that is about to be done.

        Raises:
            BudgetSpent: there is no room for all of it; then none of it is to be done.
        """
        self.check()
        with self._lock:
            left = self.remaining
            for limit, count in _COUNTED_BY.items():
                room, amount = getattr(left, limit), getattr(wanted, count)
                if room is not None and amount > room and not (limit == "dollars" and self._affords(amount)):
                    self._spent(limit)
            self.charge(wanted, part)

    def _affords(self, dollars: float) -> bool:
        """Whether the limit holds but for what adding floats leaves over."""
        limit = self.budget.dollars
        return limit is None or self.usage.dollars + dollars <= limit * (1 + _ROUNDING)

    def charge(self, used: Usage, part: Part) -> None:
        used = replace(used, seconds=0.0)
        with self._lock:
            self._parts[part] += used
            if used.flops:
                self.own_models += used

    def _hold(self, limit: str, amount: int) -> None:
        self._held[limit] += amount

    def _spent(self, limit: str) -> NoReturn:
        self.stopped_by = self.stopped_by or limit
        raise BudgetSpent(limit)


class Call:
    """One call's account (`structdecode.core.protocols.Account`): what is charged comes out of what was reserved for it.

    Attributes:
        limits: tokens that each row may have; one with less than 1 cannot run, and the caller drops it.
    """

    def __init__(
        self, meter: Meter, part: Part, limits: list[int], flops: Callable[[Usage], float] | None = None
    ) -> None:
        self.limits = limits
        self._meter, self._part, self._flops = meter, part, flops
        self._held = {"tokens": sum(limits), "model_calls": 1}

    def admit(self, tokens: int) -> None:
        """Charges prompt tokens that are about to be computed.

        Raises:
            BudgetSpent: there is no room for them; then nothing is to be computed.
        """
        meter = self._meter
        with meter._lock:
            left = meter.remaining.prefill_tokens
            if left is not None and tokens > left:
                meter._spent("prefill_tokens")
            self._book(Usage(prefilled_tokens=tokens))

    def charge(self, used: Usage) -> None:
        """Charges work that was done."""
        with self._meter._lock:
            for limit, held in self._held.items():
                freed = min(held, getattr(used, _COUNTED_BY[limit]))
                self._held[limit] -= freed
                self._meter._hold(limit, -freed)
            self._book(used)

    def _book(self, used: Usage) -> None:
        self._meter.charge(replace(used, flops=self._flops(used)) if self._flops is not None else used, self._part)

    def release(self) -> None:
        """Gives back what was reserved and not charged."""
        with self._meter._lock:
            for limit, held in self._held.items():
                self._meter._hold(limit, -held)
                self._held[limit] = 0


class Tally:
    """An account that passes everything on to another, and knows the sum."""

    def __init__(self, account: Account) -> None:
        self._account, self.usage = account, Usage()

    def admit(self, tokens: int) -> None:
        self._account.admit(tokens)
        self.usage += Usage(prefilled_tokens=tokens)

    def charge(self, used: Usage) -> None:
        self._account.charge(used)
        self.usage += used


@dataclass
class _Clock:
    """Seconds in which at least one piece of work was under way."""

    under_way: int = 0
    _total: float = 0.0
    _since: float = 0.0

    def begin(self) -> None:
        self._since = time.monotonic() if not self.under_way else self._since
        self.under_way += 1

    def end(self) -> None:
        self.under_way -= 1
        self._total += time.monotonic() - self._since if not self.under_way else 0.0

    @property
    def seconds(self) -> float:
        return self._total + (time.monotonic() - self._since if self.under_way else 0.0)


def _shared_out(left: int | None, rows: int, wanted: int) -> list[int]:
    """Token limits for ``rows`` generations of up to ``wanted`` tokens each, evenly where not all is there."""
    if left is None or left >= wanted * rows:
        return [wanted] * rows
    return [min(wanted, left // rows + (row < left % rows)) for row in range(rows)]
