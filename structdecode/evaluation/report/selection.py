"""What every selector makes of the samples of a run, at every number of them: ``structdecode select``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError
from structdecode.core.paths import write_atomically
from structdecode.core.plain import digest_of
from structdecode.core.types import Score
from structdecode.evaluation import statistics
from structdecode.evaluation.report import figures, page
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.evaluation.report.section import (
    Block,
    BulletList,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    percent,
    points,
    share,
)
from structdecode.evaluation.report.verifiers import ENOUGH, cell_rows, promise
from structdecode.evaluation.statistics import Comparison, Estimate
from structdecode.records.types import Record
from structdecode.selection.curves import Expected, expected
from structdecode.selection.selectors import Sample, Selector, needs_scores

Pool = tuple[list[Sample], list[bool]]
"""A question's samples, and of each whether it is right."""


@dataclass(frozen=True)
class Choice:
    """A selector's choices among N of the samples of a cell.

    Attributes:
        accuracy: expected, clustered. coverage_loss: 1 - pass@N. selection_loss: pass@N less the accuracy.
        error: of the accuracy from drawing subsets at random alone. by_id: expected accuracy by question.
        scored: whether scores were asked for. label: the verifier's among those of the run.
    """

    selector: str
    cell: CellResult
    n: int
    accuracy: Estimate
    coverage_loss: Estimate
    selection_loss: Estimate
    error: float
    by_id: Mapping[str, float]
    scored: bool = True
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.selector}/{self.verifier}/n={self.n}"

    @property
    def verifier(self) -> str:
        """Whose scores the selector made use of."""
        return (self.label or "-") if self.scored else "-"


@dataclass(frozen=True)
class Selection:
    """Selectors over the cells of independent samples of a run.

    Attributes:
        selectors: by name. sizes: numbers of samples. draws, seed: of random subsets.
        refused: why a selector does not apply to a cell's scores.
    """

    results: Results
    selectors: Mapping[str, Selector]
    sizes: Sequence[int]
    draws: int = 100
    seed: int = 0

    @cached_property
    def cells(self) -> list[CellResult]:
        """Of each family of independent samples the widest, one for each verifier and its settings.

        Raises:
            ConfigError: there is none, or it has too few samples.
        """
        found: dict[tuple[str | None, str], CellResult] = {}
        unsound = [
            cell.name
            for name, cell in self.results.cells.items()
            if cell.independent and name not in self.results.sound
        ]
        for cell in self.results.sound.values():
            key = cell.verifier, digest_of(cell.resolved.get("verifier"))
            if cell.independent and (key not in found or cell.width > found[key].width):
                found[key] = cell
        scored = [cell for (verifier, _), cell in found.items() if verifier is not None] or list(found.values())
        most = max((cell.width for cell in scored), default=0)
        if most < max(self.sizes):
            raise ConfigError(
                f"{self.results.run.directory}: has {most or 'no'} independent samples a question, fewer than {max(self.sizes)}: record or "
                f"compare best-of-n with n={max(self.sizes)}, or ask for less with --n"
                + (f" ({', '.join(unsound)}: left out, no evidence for its verifier or strategy)" if unsound else "")
            )
        return [cell for cell in scored if cell.width >= max(self.sizes)]

    def label(self, cell: CellResult) -> str:
        """A cell's verifier; with the cell's name where others have the same one with other settings."""
        same = sum(other.verifier == cell.verifier for other in self.cells)
        return (cell.verifier or "") if same == 1 else f"{cell.verifier} ({cell.family})"

    @cached_property
    def choices(self) -> list[Choice]:
        """Of every selector with every verifier that it applies to; votes without scores once."""
        return self._found[0]

    @property
    def refused(self) -> list[str]:
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[list[Choice], list[str]]:
        choices, refused = list[Choice](), list[str]()
        for at, cell in enumerate(self.cells):
            pools = [pool_of(record, self.results.resolution) for record in cell.records]
            bare = [([replace(sample, score=Score(None)) for sample in samples], right) for samples, right in pools]
            for name, selector in self.selectors.items():
                scored = needs_scores(selector)
                if at and not scored:
                    continue
                try:
                    choices += [self._choice(name, selector, cell, pools if scored else bare, n) for n in self.sizes]
                except ConfigError as error:
                    refused.append(f"{name} with {self.label(cell)}: {error}")
        return choices, refused

    def _choice(self, name: str, selector: Selector, cell: CellResult, pools: Sequence[Pool], n: int) -> Choice:
        values: list[Expected] = []
        covered: list[float] = []
        for at, (samples, right) in enumerate(pools):
            size = min(n, len(samples))
            values.append(
                expected(selector, samples, right, size, draws=self.draws, seed=self.seed + at)
                if size
                else Expected(0.0)
            )
            covered.append(statistics.pass_at(size, len(samples), sum(right)) if size else 0.0)
        told = [value.value for value in values]
        by_id: dict[str, list[float]] = {}
        for record, value in zip(cell.records, told, strict=True):
            by_id.setdefault(record.id, []).append(value)
        return Choice(
            name, cell, n, cell.mean(told), cell.mean([1 - c for c in covered]), cell.gap([c - v for c, v in zip(covered, told, strict=True)]),
            math.sqrt(math.fsum(value.error**2 for value in values)) / len(values), {i: sum(v) / len(v) for i, v in by_id.items()}, needs_scores(selector),
            self.label(cell),
        )  # fmt: skip

    @cached_property
    def against_greedy(self) -> dict[str, tuple[Comparison, float | None]]:
        """Of each choice by name its gain over the greedy answer, corrected together (Holm); empty where there is none."""
        greedy = self.results.greedy
        if greedy is None:
            return {}
        values = {choice.name: choice.by_id for choice in self.choices} | {"greedy": greedy.correct}
        pairs = [(choice.name, "greedy") for choice in self.choices]
        found = statistics.paired_means(pairs, values, self.results.clusters, seed=self.seed)
        return {pair[0]: one for pair, one in zip(pairs, found, strict=True)}


def pool_of(record: Record, noise: float) -> Pool:
    """A question's samples in the order they were drawn, and whether each is right.

    Scores are the verifier's; what the search made of them (a vote's shares) only where no verifier was asked.
    """
    drawn = sorted(record.pool, key=lambda candidate: candidate.path)
    given = {path: v for found in record.rounds for path, v in zip(found.paths, found.values, strict=True)}
    samples = [
        Sample(
            c.answer if c.valid and c.answer else None, Score(given.get(c.path, c.score), resolution=noise), c.answer
        )
        for c in drawn
    ]
    return samples, [candidate.correct for candidate in drawn]


def section(selection: Selection) -> Section:
    choices, gains = selection.choices, selection.against_greedy
    rows = [_row(choice, gains.get(choice.name)) for choice in choices]
    blocks: list[Block] = [
        Paragraph(
            "The expected accuracy of a choice among N of the samples that were drawn, over all subsets of N (random ones where "
            f"there are many: {selection.draws} a question, the same for every selector; the error of that alone is in the last column). "
            "pass@N is what a perfect choice would get: what is missing to 100 % is lost by generation (coverage), what is missing from the choice "
            "to pass@N by selection. Standard errors and intervals are clustered as everywhere."
        )
    ]
    if gains:
        blocks.append(Paragraph(_headline(selection)))
    columns = COLUMNS if gains else tuple(column for column in COLUMNS if column.key not in ("gain", "p"))
    if choices:
        words = "Accuracy of each selector by the number of samples N, and pass@N."
        blocks += [
            Figure("selection", figure(selection), words),
            Table("selection", columns, tuple(rows), filtered=True),
        ]
    if selection.refused:
        blocks.append(BulletList(tuple(selection.refused), folded="Selectors that do not apply"))
    return Section("selection", "What selectors choose", tuple(blocks))


def verifier_section(selection: Selection) -> Section:
    """How well each verifier tells right from wrong, and what it costs."""
    rows = []
    for cell in selection.cells:
        auc = next((row["auc"] for row in cell_rows(cell)), None)
        if auc is not None:
            rows.append({
                "verifier": selection.label(cell), "auc": auc, "expect": promise(auc.value),
                "generated": cell.used("verifier", "generated_tokens").value / cell.width,
                "prefilled": cell.used("verifier", "prefilled_tokens").value / cell.width,
                "flops": cell.cost("flops", "verifier").value,
            })  # fmt: skip
    words = Paragraph(
        "AUC within a question: how often a right sample is scored above a wrong one of the same question, ties as half. "
        f"Under {ENOUGH:.2f} no gain over voting is to be expected (CASE). Tokens are those that the verifier computed a sample."
    )
    columns = (
        Column("verifier", "verifier", text=True), Column("auc", "AUC", share),
        Column("auc", "95 % interval", lambda e: "-" if math.isnan(e.low) else f"{e.low:.3f} to {e.high:.3f}"),
        Column("expect", "to be expected", text=True), Column("generated", "tokens generated", lambda v: f"{v:.1f}"),
        Column("prefilled", "tokens prefilled", lambda v: f"{v:.1f}"), Column("flops", "FLOPs a question", lambda v: f"{v:.2e}"),
    )  # fmt: skip
    return Section(
        "selection_verifiers", "Verifiers of these samples", (words, Table("verifiers", columns, tuple(rows)))
    )


COLUMNS = (
    Column("selector", "selector", text=True), Column("verifier", "verifier", text=True), Column("n", "N"),
    Column("accuracy", "accuracy, %", percent), Column("gain", "over greedy, points", points), Column("p", "p (Holm)", text=True),
    Column("coverage_loss", "coverage loss, %", percent), Column("selection_loss", "selection loss, points", points),
    Column("error", "± of subsets", lambda v: "-" if v == 0 else f"{100 * v:.2f}"),
)  # fmt: skip


def _row(choice: Choice, gain: tuple[Comparison, float | None] | None) -> dict[str, Any]:
    told = {} if gain is None else {"gain": gain[0].difference, "p": statistics.p_text(gain[0].p_holm)}
    return {
        "selector": choice.selector, "verifier": choice.verifier, "n": choice.n, "accuracy": choice.accuracy, **told,
        "coverage_loss": choice.coverage_loss, "selection_loss": choice.selection_loss, "error": choice.error,
    }  # fmt: skip


def _headline(selection: Selection) -> str:
    greedy = selection.results.greedy
    assert greedy is not None
    gains = selection.against_greedy
    shown = [
        choice
        for choice in selection.choices
        if gains[choice.name][0].shown and gains[choice.name][0].difference.value > 0
    ]
    start = f"The greedy answer is right on {100 * greedy.accuracy.value:.1f} %."
    if not shown:
        return f"{start} None of the {len(gains)} choices is shown to be better (Holm over all of them)."
    best = max(shown, key=lambda choice: choice.accuracy.value)
    gap = gains[best.name][0]
    return (
        f"{start} {len(shown)} of the {len(gains)} choices are shown to be better (Holm over all of them), most of all {best.selector} with "
        f"{best.verifier} at N = {best.n}: {100 * best.accuracy.value:.1f} %, {100 * gap.difference.value:.1f} points more (p {statistics.p_text(gap.p_holm)})."
    )


def figure(selection: Selection) -> str:
    """Lines of accuracy by N, those of the best eight at the largest N, and pass@N above them."""
    lines: dict[str, dict[int, float]] = {}
    for choice in selection.choices:
        lines.setdefault(f"{choice.selector}, {choice.verifier}", {})[choice.n] = 100 * choice.accuracy.value
    sizes = sorted(selection.sizes)
    best = sorted(lines, key=lambda name: -lines[name][sizes[-1]])[:8]
    passed = {c.n: 100 * (1 - c.coverage_loss.value) for c in selection.choices if c.cell is selection.cells[0]}
    with figures.drawing("selection", 9.2, 4.9) as (drawn, axes, out):
        ax = axes[0][0]
        handles = [ax.plot(sizes, [passed[n] for n in sizes], color=figures.FAINT, linewidth=4)[0]]
        for at, name in enumerate(best):
            style = {"color": figures.COLOURS[at], "marker": figures.MARKERS[at], "markersize": 4.5, "linewidth": 1.2}
            handles.append(ax.plot(sizes, [lines[name][n] for n in sizes], **style)[0])
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_xlabel("samples N")
        ax.set_ylabel("accuracy, %")
        figures.legend_below(drawn, handles, ["pass@N", *map(figures.short, best)])
    return out[0]


def write(selection: Selection) -> Path:
    """Writes ``selection.md``, ``selection.html``, ``selection.json`` and the figure into the run's directory; returns the page."""
    directory = selection.results.run.directory
    sections = [section(selection), verifier_section(selection)]
    (directory / "figures").mkdir(exist_ok=True)
    for drawn in sections[0].figures:
        write_atomically(directory / "figures" / f"{drawn.name}.svg", drawn.svg)
    title = f"Selection: {directory.resolve().name}"
    tables = {name: table for each in sections for name, table in each.tables.items()}
    write_atomically(directory / "selection.json", json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    text = "\n\n".join([f"# {Paragraph(title).markdown()}", *(each.markdown() for each in sections)])
    write_atomically(directory / "selection.md", text + "\n")
    write_atomically(directory / "selection.html", page.html(title, [], sections))
    return directory / "selection.html"
