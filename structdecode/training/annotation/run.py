"""A run directory: ``journal.jsonl`` grows with every reply; the rest is written whole from the data and the journal.

``train.jsonl`` the accepted records, in the data's order · ``rejected.jsonl`` the others, each with its reason ·
``annotation.json`` what was asked of whom and what it cost · a folder for each source's pictures. Replies alone decide
what is in these files, not the order or the start in which they came: killed and resumed, a run ends with the same bytes.
A start first decides what the journal decides, and writes no file before: a start that is stopped early takes nothing away.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from structdecode.backends.openai.errors import Stopped, Unanswered
from structdecode.core.errors import ImageError, PromptError, StructdecodeError
from structdecode.core.lifetimes import lifetimes
from structdecode.core.paths import write_atomically
from structdecode.core.problems import Rejected
from structdecode.core.reading import one_line
from structdecode.core.workers import as_done
from structdecode.training.annotation.annotator import Accepted, Annotator, Refused
from structdecode.training.annotation.checks import Problem
from structdecode.training.annotation.client import Client, JournalClient
from structdecode.training.annotation.costs import Prices
from structdecode.training.annotation.errors import NotInJournal
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.progress import LiveAnnotation
from structdecode.training.annotation.sources import Item

Entry = Item | Rejected
Decision = Accepted | Refused | Rejected

REJECTED = "rejected.jsonl"

FAULTS = ("failed", "image-not-placed", "verifier-failed")
"""Problems that are neither the record's nor its answer's: of our own, of the disk, of a plug-in."""

WRITE_EVERY = 300.0
"""Seconds between two writings of the files while a run goes on."""


@dataclass(frozen=True)
class Settings:
    """What a run is started with, beside its data.

    Attributes:
        concurrency: records, and so requests, in flight. described: for ``annotation.json``.
    """

    out: Path
    concurrency: int = 16
    prices: Prices = field(default_factory=Prices)
    described: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False


@dataclass(frozen=True)
class AnnotationResult:
    """How a start of a run ended.

    Attributes:
        undecided: records that were not got to. stopped: why nothing more was sent; empty where all was done.
        unanswered: records whose requests the API did not answer.
        failed: the first of `FAULTS` in the data's order, and whose record it was.
    """

    accepted: int
    rejected: int
    unanswered: int
    undecided: int
    reasons: dict[str, int]
    stopped: str = ""
    interrupted: bool = False
    failed: str = ""


async def annotate(
    entries: Sequence[Entry], annotator: Annotator, client: Client, journal: Journal, settings: Settings
) -> AnnotationResult:
    """Annotates all records, and writes the files; at SIGINT or SIGTERM when what is in flight has come.

    Raises:
        StructdecodeError: the run cannot go on (see `ApiError`). The files are written before, unless not even the
            replies in the journal could be judged.
    """
    run = _Run(entries, annotator, client, journal, settings)
    with _signals(run):
        try:
            with run.live:
                await run.all()
        finally:
            run.write()
    if run.error is not None:
        raise run.error
    return run.outcome


class _Run:
    def __init__(
        self, entries: Sequence[Entry], annotator: Annotator, client: Client, journal: Journal, settings: Settings
    ) -> None:
        self.entries, self.annotator, self.client = entries, annotator, client
        self.journal, self.settings = journal, settings
        self.decisions: dict[int, Decision] = {at: e for at, e in enumerate(entries) if isinstance(e, Rejected)}
        self.unanswered: dict[int, str] = {}
        self.stopped = ""
        self.interrupted = False
        self.error: StructdecodeError | None = None
        self._journal_decided = False
        self.live = LiveAnnotation(
            len(entries), journal, settings.prices, waiting=lambda: client.waiting, quiet=settings.quiet
        )
        self.live.rejected = len(self.decisions)
        self._written = time.monotonic()

    def interrupt(self) -> None:
        """The first time, nothing new is sent; what is in flight is waited for."""
        self.interrupted = True
        self.stop("interrupted")

    def stop(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        self.client.stop.set()

    async def all(self) -> None:
        ticking = asyncio.create_task(self._tick())
        try:
            await self._decide(replace(self.annotator, client=JournalClient(self.journal)))
            self._journal_decided = self.error is None
            if not self.client.stop.is_set():
                await self._decide(self.annotator)
        finally:
            ticking.cancel()

    async def _decide(self, annotator: Annotator) -> None:
        """All records that are undecided, as far as this annotator's client has the replies."""
        todo = [at for at in range(len(self.entries)) if at not in self.decisions]

        async def one(at: int) -> None:
            await asyncio.sleep(0)  # replies of the journal come without a pause: let the others have their turn
            await self._one(at, annotator)

        # to the end after a stop, too: a reply that just came may decide another record as well
        async with lifetimes(), aclosing(as_done(todo, one, self.settings.concurrency)) as done:
            async for _ in done:
                pass

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.live.tick()
            if time.monotonic() - self._written > WRITE_EVERY:
                self.write()

    async def _one(self, at: int, annotator: Annotator) -> None:
        item = self.entries[at]
        assert isinstance(item, Item)
        try:
            decision: Decision = await annotator.annotate(item)
        except NotInJournal:
            return
        except Stopped as error:
            self.stop(str(error))
            return
        except Unanswered as error:
            self.unanswered[at] = str(error)
            self.live.unanswered += 1
            return
        except (ImageError, PromptError) as error:
            decision = Refused(1, Problem("broken-record", str(error)), 0)
        except StructdecodeError as error:  # wrong key, no credit, a missing extra: no record can go on
            self.error = self.error or error
            self.stop(str(error))
            return
        except Exception as error:  # a record that we cannot handle must not end the others
            decision = Refused(1, Problem("failed", f"{type(error).__name__}: {error}"), 0)
        self.decisions[at] = decision
        if isinstance(decision, Accepted):
            self.live.accepted += 1
        else:
            self.live.rejected += 1

    # ------------------------------------------------------------------ files

    def write(self) -> None:
        """All files, each whole, from what is decided so far; not before the journal's replies are."""
        if not self._journal_decided:
            return
        self._written = time.monotonic()
        accepted, rejected = [], []
        for at, entry in enumerate(self.entries):
            decision = self.decisions.get(at)
            if isinstance(decision, Accepted):
                accepted.append(decision.record)
            elif isinstance(decision, Rejected):
                rejected.append(_unusable_line(decision))
            elif isinstance(entry, Item) and (decision is not None or at in self.unanswered):
                rejected.append(_refused_line(entry, decision, self.unanswered.get(at, "")))
        write_atomically(self.settings.out / "train.jsonl", _lines(accepted))
        write_atomically(self.settings.out / REJECTED, _lines(rejected))
        text = json.dumps(self._summary(), indent=1, ensure_ascii=False)
        write_atomically(self.settings.out / "annotation.json", text + "\n")

    def _summary(self) -> dict[str, Any]:
        outcome = self.outcome
        spent = {p: self.journal.spent(p).__dict__ for p in ("answer", "check")}
        return {
            "format": "structdecode-annotation/1", **self.settings.described, "accepted": outcome.accepted,
            "rejected": outcome.rejected, "unanswered": outcome.unanswered, "undecided": outcome.undecided,
            "reasons": outcome.reasons, "spent": spent, "cost": round(self.settings.prices.spent(self.journal), 6),
        }  # fmt: skip

    @property
    def outcome(self) -> AnnotationResult:
        reasons: Counter[str] = Counter()
        failed = ""
        for at, decision in sorted(self.decisions.items()):
            if isinstance(decision, Accepted):
                continue
            problem = decision.problem if isinstance(decision, Rejected) else decision.problem.name
            reasons[problem] += 1
            if problem in FAULTS:
                failed = failed or _told(self.entries[at], decision)
        rejected = sum(reasons.values())
        undecided = len(self.entries) - len(self.decisions) - len(self.unanswered)
        return AnnotationResult(
            len(self.decisions) - rejected, rejected, len(self.unanswered), undecided, dict(sorted(reasons.items())),
            self.stopped, self.interrupted, failed,
        )  # fmt: skip


def write_rejected(out: Path, rejected: Sequence[Rejected]) -> None:
    """The file of what cannot be used, where there is nothing else."""
    write_atomically(out / REJECTED, _lines([_unusable_line(each) for each in rejected]))


def _told(entry: Entry, decision: Refused | Rejected) -> str:
    if isinstance(entry, Item) and isinstance(decision, Refused):
        return f"{entry.id}: {decision.problem.message}"
    return str(decision)


def _unusable_line(rejected: Rejected) -> dict[str, Any]:
    return _line(rejected.file, rejected.line, rejected.problem, rejected.message)


def _refused_line(item: Item, decision: Decision | None, unanswered: str) -> dict[str, Any]:
    if not isinstance(decision, Refused):
        return {"id": item.id, **_line(item.file, item.line, "unanswered", unanswered)}
    found = _line(item.file, item.line, decision.problem.name, decision.problem.message)
    return {"id": item.id, **found, "turn": decision.turn, "attempts": decision.attempts, "text": decision.text}


def _line(file: str, line: int | None, problem: str, message: str) -> dict[str, Any]:
    return {"file": file, "line": line, "problem": problem, "message": one_line(message)}


def _lines(items: Sequence[Any]) -> str:
    return "".join(json.dumps(dict(item), ensure_ascii=False) + "\n" for item in items)


@contextmanager
def _signals(run: _Run) -> Iterator[None]:
    """SIGINT and SIGTERM stop the run; a second SIGINT ends it at once."""
    loop = asyncio.get_running_loop()
    taken = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, _stop_once, run, loop)
            taken.append(number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            continue
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _stop_once(run: _Run, loop: asyncio.AbstractEventLoop) -> None:
    loop.remove_signal_handler(signal.SIGINT)
    run.interrupt()
