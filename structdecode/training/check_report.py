"""What `structdecode data check` found: problems with a few places each, and statistics; as a page or as JSON."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from structdecode.core.problems import BadRow, printable
from structdecode.core.types import Schema
from structdecode.training.conversations import Conversation
from structdecode.training.problems import kind

SHOWN = 3
"""So many places are named for each kind of problem."""

Measure = Callable[[str], int]


@dataclass
class Found:
    """One kind of problem: how often, in how many rows, and where first (line, message)."""

    count: int = 0
    rows: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Source:
    """Rows of one source: how many, with how many pairs and pictures, and the length of each stage's text."""

    rows: int = 0
    pairs: int = 0
    images: int = 0
    stages: dict[str, array[int]] = field(default_factory=dict)


class CheckReport:
    """Grows row by row; small however many rows there are.

    Attributes:
        rows, good: all rows; those without an error that are no copies.
        problems: by kind, see `structdecode.training.problems`.
        sources: by name, rows whose turns could be read.
        lengths: tokens of each example that a model's processor could be asked for.
        unit: what stages are measured in.
    """

    def __init__(self, file: str, schema: Schema) -> None:
        self.file, self.schema = file, schema
        self.rows = self.good = self.without_image = self.several_images = self.several_pairs = 0
        self.problems: dict[str, Found] = {}
        self.sources: dict[str, Source] = {}
        self.lengths = array("q")
        self.unit = "characters"

    def add(
        self, line: int, conversation: Conversation | None, problems: Sequence[BadRow], measure: Measure | None
    ) -> bool:
        """Counts a row; whether it is good. ``measure`` counts a text's tokens; None: characters are counted."""
        self.rows += 1
        if measure is not None:
            self.unit = "tokens"
        for name in dict.fromkeys(bad.problem for bad in problems):
            self.problems.setdefault(name, Found()).rows += 1
        for bad in problems:
            found = self.problems[bad.problem]
            found.count += 1
            if len(found.first) < SHOWN:
                found.first.append((line, str(bad)))
        if conversation is not None:
            self._count(conversation, measure or len)
        good = not any(kind(bad.problem).error or bad.problem == "duplicate-content" for bad in problems)
        self.good += good
        return good

    def _count(self, conversation: Conversation, measure: Measure) -> None:
        source = self.sources.setdefault(conversation.source, Source())
        source.rows += 1
        source.pairs += len(conversation.pairs)
        source.images += len(conversation.images)
        self.without_image += not conversation.images
        self.several_images += len(conversation.images) > 1
        self.several_pairs += len(conversation.pairs) > 1
        for pair in conversation.pairs:
            for name, text in pair.stages.items():
                source.stages.setdefault(name, array("q")).append(measure(text))

    @property
    def errors(self) -> dict[str, Found]:
        return {name: found for name, found in self.problems.items() if kind(name).error}

    @property
    def warnings(self) -> dict[str, Found]:
        return {name: found for name, found in self.problems.items() if not kind(name).error}

    @property
    def stages(self) -> dict[str, array[int]]:
        """Lengths by stage over all sources, in the schema's order."""
        whole = {}
        for stage in self.schema.stages:
            parts = [s.stages[stage.name] for s in self.sources.values() if stage.name in s.stages]
            if parts:
                whole[stage.name] = array("q", (length for part in parts for length in part))
        return whole

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": "structdecode-data-check/1", "file": self.file, "schema": self.schema.name,
            "rows": self.rows, "good": self.good, "without_image": self.without_image,
            "several_images": self.several_images, "several_pairs": self.several_pairs,
            "errors": {name: _found(name, found) for name, found in sorted(self.errors.items())},
            "warnings": {name: _found(name, found) for name, found in sorted(self.warnings.items())},
            "unit": self.unit,
            "example_tokens": summary(self.lengths) if len(self.lengths) else None,
            "stages": {name: summary(lengths) for name, lengths in self.stages.items()},
            "sources": {
                name: {
                    "rows": s.rows, "pairs": s.pairs, "images": s.images,
                    "stages": {stage: summary(lengths) for stage, lengths in s.stages.items()},
                }
                for name, s in sorted(self.sources.items())
            },
        }  # fmt: skip


def _found(name: str, found: Found) -> dict[str, Any]:
    return {
        "count": found.count, "rows": found.rows, "remedy": kind(name).remedy,
        "first": [{"line": line, "message": message} for line, message in found.first],
    }  # fmt: skip


def summary(lengths: array[int]) -> dict[str, int]:
    """Count, median, 95th percentile (a value that occurs) and maximum."""
    values = np.asarray(lengths)
    median, p95 = np.percentile(values, [50, 95], method="inverted_cdf")
    return {"count": len(values), "median": int(median), "p95": int(p95), "max": int(values.max())}


def show(report: CheckReport, console: Console) -> None:
    """Prints problems with their remedies, worst and most frequent first, then statistics."""

    def say(text: Text | str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    for title, style, problems in (("error", "bold red", report.errors), ("warning", "yellow", report.warnings)):
        for name, found in sorted(problems.items(), key=lambda item: (-item[1].rows, item[0])):
            say(Text.assemble((title, style), f" {name}: {found.rows:,} {'row' if found.rows == 1 else 'rows'}"))
            for line, message in found.first:
                say(f"  {report.file}:{line}: {printable(message)}")
            if found.count > len(found.first):
                say(f"  ... {found.count - len(found.first):,} more")
            say(Text.assemble(("  -> ", "green"), kind(name).remedy))
    console.print(_stage_table(report))
    console.print(_source_table(report))
    bad = sum(found.rows for found in report.errors.values())
    verdict = "no errors" if not bad else f"{len(report.errors)} kinds of errors"
    say(
        f"{report.file}: {report.rows:,} rows, {report.good:,} good, {verdict}; {report.without_image:,} without a "
        f"picture, {report.several_images:,} with several, {report.several_pairs:,} of several turns"
    )


def _stage_table(report: CheckReport) -> Table:
    table = Table(title=f"Stages, length in {report.unit}", title_justify="left")
    for name in ("stage", "texts", "median", "95 %", "longest"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    rows = [(name, lengths) for name, lengths in report.stages.items()]
    if len(report.lengths):
        rows.append(("whole example", report.lengths))
    for name, lengths in rows:
        table.add_row(Text(name), *(f"{value:,}" for value in summary(lengths).values()))
    return table


def _source_table(report: CheckReport) -> Table:
    """A line a source, largest first; the median of each stage."""
    stages = list(report.stages)
    table = Table(title=f"Sources, median length in {report.unit}", title_justify="left")
    for name in ("source", "rows", "pairs", "pictures", *stages):
        table.add_column(Text(name), justify="left" if name == "source" else "right")
    for name, source in sorted(report.sources.items(), key=lambda item: (-item[1].rows, item[0])):
        medians = [f"{summary(source.stages[s])['median']:,}" if s in source.stages else "" for s in stages]
        counts = (source.rows, source.pairs, source.images)
        table.add_row(Text(printable(name)), *(f"{value:,}" for value in counts), *medians)
    return table
