"""How far a comparison is: a bar a cell in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from structdecode.core.progress import EVERY, clock
from structdecode.evaluation.clusters import wilson
from structdecode.evaluation.statistics import FEW
from structdecode.records.types import Record


@dataclass
class Tally:
    """Running counts of a cell, or of all of them."""

    done: int = 0
    correct: int = 0
    tokens: int = 0
    failed: int = 0
    """Questions on which a verifier failed."""

    def add(self, record: Record, now: bool) -> None:
        """``now``: whether this start of the run did the work (else an earlier one did)."""
        self.done += 1
        self.correct += record.correct
        self.failed += bool(record.failures)
        if now:
            self.tokens += int(sum(counts["generated_tokens"] for counts in record.usage.values()))

    @property
    def failing(self) -> bool:
        """Whether there is no question yet on which its verifier did not fail."""
        return 0 < self.failed == self.done

    @property
    def accuracy(self) -> str:
        """In per cent with Wilson's 95 % interval; counts where there are too few questions for a share."""
        if not self.done:
            return ""
        if self.done < FEW:
            return f"{self.correct} of {self.done} right"
        low, high = wilson(self.correct / self.done, self.done)
        return f"{100 * self.correct / self.done:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


class LiveCells:
    """Shows each finished record. Use as a context manager; ``quiet`` shows nothing."""

    def __init__(self, cells: Sequence[str], questions: int, *, quiet: bool = False, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self.questions = questions
        self.tallies = {name: Tally() for name in cells}
        self.total = Tally()
        self.quiet = quiet
        self.begun = self._said = time.monotonic()
        self.earlier = 0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveCells:
        self.begun = self._said = time.monotonic()
        if not self.quiet and self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[accuracy]}"), TextColumn("[dim]{task.fields[note]}"),
                console=self.console, transient=False,
            )  # fmt: skip
            everything = len(self.tallies) * self.questions
            self._tasks[""] = self._bars.add_task("[bold]all", total=everything, accuracy="", note="")
            for name in self.tallies:
                self._tasks[name] = self._bars.add_task(name, total=self.questions, accuracy="", note="")
            self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bars is not None:
            self._bars.stop()
        elif not self.quiet:
            self._say()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def add(self, record: Record, *, now: bool = True) -> None:
        self.total.add(record, now)
        self.tallies[record.cell].add(record, now)
        self.earlier += not now
        if self._bars is not None:
            tally = self.tallies[record.cell]
            self._bars.update(self._tasks[record.cell], completed=tally.done, accuracy=tally.accuracy)
            self._bars.update(self._tasks[""], completed=self.total.done, note=self.pace)
        elif not self.quiet and now and time.monotonic() - self._said >= EVERY:
            self._say()

    @property
    def pace(self) -> str:
        """Tokens a second, and the time left at the pace so far."""
        seconds = self.seconds
        now = self.total.done - self.earlier
        if now == 0 or seconds == 0:
            return ""
        left = (len(self.tallies) * self.questions - self.total.done) * seconds / now
        return f"{self.total.tokens / seconds:,.0f} tokens/s, {clock(left)} left"

    def _say(self) -> None:
        self._said = time.monotonic()
        everything = len(self.tallies) * self.questions
        parts = [f"{self.total.done}/{everything} done", self.pace]
        started = [(name, tally) for name, tally in self.tallies.items() if tally.done >= FEW and not tally.failing]
        if started:
            name, tally = max(started, key=lambda pair: pair[1].correct / pair[1].done)
            parts.append(f"highest so far: {name} {tally.accuracy}")
        for name, tally in self.tallies.items():
            if tally.failing:
                parts.append(f"{name}: its verifier failed on all {tally.failed} questions so far")
        print("compare: " + ", ".join(filter(None, parts)), file=self.console.file, flush=True)
