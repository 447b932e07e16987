"""How far an annotation is: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from structdecode.core.progress import EVERY, clock
from structdecode.training.annotation.costs import Prices
from structdecode.training.annotation.journal import Journal


class LiveAnnotation:
    """Counts records. Use as a context manager; ``quiet`` shows nothing.

    Args:
        waiting: seconds until a rate limit lets requests go on.
    """

    def __init__(
        self, total: int, journal: Journal, prices: Prices, *, waiting: Callable[[], float], quiet: bool = False,
        console: Console | None = None,
    ) -> None:  # fmt: skip
        self.console = console or Console(stderr=True, highlight=False)
        self.total, self.journal, self.prices, self.waiting, self.quiet = total, journal, prices, waiting, quiet
        self.accepted = self.rejected = self.unanswered = 0
        self.begun = self._said = time.monotonic()
        self._at_start = len(journal)
        self._paced: tuple[int, float] | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> LiveAnnotation:
        if not self.quiet and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("annotating"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"), console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self.total, note="")
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self.tick()
            self._bar.stop()
        elif not self.quiet:
            self._say()

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.unanswered

    def tick(self) -> None:
        """Shows the counts as they are now."""
        if self._paced is None and len(self.journal) > self._at_start:
            self._paced = (self.done, time.monotonic())  # what the journal had went by in no time
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif not self.quiet and time.monotonic() - self._said >= EVERY:
            self._say()

    @property
    def note(self) -> str:
        """Accepted, rejected, requests a minute, time left, tokens and cost."""
        seconds = max(1e-9, time.monotonic() - self.begun)
        parts = [f"{self.accepted} accepted", f"{self.rejected} rejected"]
        if self.unanswered:
            parts.append(f"{self.unanswered} unanswered")
        asked = len(self.journal) - self._at_start
        if asked:
            parts.append(f"{60 * asked / seconds:,.0f} requests/min")
        if self._paced is not None and self.done > self._paced[0]:
            pace = (time.monotonic() - self._paced[1]) / (self.done - self._paced[0])
            parts.append(f"{clock((self.total - self.done) * pace)} left")
        parts.append(tokens_and_cost(self.journal, self.prices))
        if self.waiting() > 0:
            parts.append(f"rate limit: waiting {self.waiting():.0f} s")
        return ", ".join(parts)

    def _say(self) -> None:
        self._said = time.monotonic()
        print(f"annotate: {self.done}/{self.total} done, {self.note}", file=self.console.file, flush=True)


def tokens_and_cost(journal: Journal, prices: Prices) -> str:
    """Of all starts of the run together."""
    answers, checks = journal.spent("answer"), journal.spent("check")
    sent = answers.prompt_tokens + checks.prompt_tokens
    written = answers.completion_tokens + checks.completion_tokens
    cost = f", cost {prices.spent(journal):,.4f}" if prices.known else ""
    return f"{sent:,} + {written:,} tokens{cost}"
