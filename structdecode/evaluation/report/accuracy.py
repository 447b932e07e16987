"""Accuracy against cost: the curves, the Pareto front, and every cell with all that it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from structdecode.evaluation import statistics
from structdecode.evaluation.costs import Unit
from structdecode.evaluation.report import figures
from structdecode.evaluation.report.figures import SeriesStyle
from structdecode.evaluation.report.results import UNIT_NAMES, CellResult, Results
from structdecode.evaluation.report.section import (
    LARGE,
    Block,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    amount,
    interval,
    p_value,
    percent,
    points,
    text,
)
from structdecode.evaluation.statistics import Comparison, Estimate


def section(results: Results) -> Section:
    blocks: list[Block] = [
        Paragraph(certainty(results)),
        *(Paragraph(f"No evidence: {cell.name}: {cell.broken}.") for cell in results.cells.values() if cell.broken),
    ]
    for unit in results.units():
        front = ", ".join(cell.name for cell in results.pareto(unit))
        words = f"Accuracy against {UNIT_NAMES[unit]}, a question. On the Pareto front (grey line): {front}."
        blocks.append(Figure(f"accuracy-{unit.replace('_', '-')}", curves(results, unit), words))
    blocks.extend(all_cells(results))
    blocks.extend(seeds(results))
    return Section("accuracy", "Accuracy against cost", tuple(blocks))


def certainty(results: Results) -> str:
    """What ± and intervals are, and how many clusters they rest on."""
    groups = len({results.clusters.get(i, i) for cell in results.cells.values() for i in cell.correct})
    asked = len({i for cell in results.cells.values() for i in cell.correct})
    column = (results.run.study["config"].get("data") or {}).get("cluster_by")
    known = any("cluster" in line for line in results.run.questions.values())
    what = (
        f"the column {column!r}" if column
        else "the picture; a question without one is its own" if known
        else "the question, since this run has not recorded which pictures they share"
    )  # fmt: skip
    return (
        f"{asked} questions in {groups} clusters (by {what}). ± is one standard error, robust to clusters (Miller 2024, "
        "arXiv 2411.00640); where nothing varied, or fewer than "
        f"{statistics.FEW} clusters say, there is none. An interval (bar or 'a to b') holds 95 %: Wilson's on the effective "
        "number of questions for shares of answers, the bootstrap over clusters for the rest."
    )


def seeds(results: Results) -> list[Block]:
    """Where cells ran with several seeds: how much of the spread is between questions, and how much between seeds."""
    rows = tuple(
        {
            "cell": cell.name,
            "seeds": len(cell.seeds),
            "accuracy": cell.accuracy,
            **_split(cell),
            "by_seed": _by_seed(cell),
        }
        for cell in results.cells.values()
        if len(cell.seeds) > 1
    )
    if not rows:
        return []
    words = (
        "Several seeds of a cell are replicates: they are pooled, nested in their question, and ± is of the pooled mean. The "
        "variance of one answer is split into that between questions and that between seeds of one question (one-way "
        "analysis of variance); more seeds lessen the second part only."
    )
    columns = (
        Column("cell", "cell", text=True), Column("seeds", "seeds"), Column("accuracy", "accuracy, %", percent),
        Column("between", "variance between questions", _variance), Column("within", "between seeds of one", _variance),
        Column("by_seed", "each seed, %", lambda found: ", ".join(f"{seed}: {100 * v:.1f}" for seed, v in found.items())),
    )  # fmt: skip
    return [Paragraph(words), Table("seeds", columns, rows, filtered=True)]


def _variance(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _by_seed(cell: CellResult) -> dict[str, float]:
    found = {seed: [r.correct for r in cell.records if r.seed == seed] for seed in cell.seeds}
    return {str(seed): sum(right) / len(right) for seed, right in found.items()}


def _split(cell: CellResult) -> dict[str, float]:
    """Components of variance of one answer, over the questions that each seed was asked."""
    by_id: dict[str, list[bool]] = {}
    for record in cell.records:
        by_id.setdefault(record.id, []).append(record.correct)
    full = np.array([right for right in by_id.values() if len(right) == len(cell.seeds)], dtype=float)  # [n, seeds]
    if len(full) < 2:
        return {"between": math.nan, "within": math.nan}
    within = float(full.var(axis=1, ddof=1).mean())
    between = float(full.mean(axis=1).var(ddof=1)) - within / full.shape[1]
    return {"between": max(0.0, between), "within": within}


def curves(results: Results, unit: Unit) -> str:
    """One line a family, its points joined in the order of the sweep; the front behind them."""
    families = results.families
    height = 4.6 + 0.19 * -(-len(families) // 2)
    with figures.drawing(f"accuracy-{unit}", 9.2, height) as (figure, axes, out):
        ax = axes[0][0]
        front = results.pareto(unit)
        x, y = [c.cost(unit).value for c in front], [100 * c.accuracy.value for c in front]
        ax.step(x, y, where="post", color=figures.FAINT, linewidth=5, alpha=0.35, zorder=1)
        handles = [_curve(ax, cells, unit, results.series_styles[family]) for family, cells in families.items()]
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: _tick(float(value)))
        ax.xaxis.set_minor_formatter(_minor(ax))
        ax.tick_params(axis="x", which="both", length=4, pad=4)
        ax.set_xlabel(f"{UNIT_NAMES[unit]}, a question")
        ax.set_ylabel("accuracy, %")
        figures.legend_below(figure, handles, [figures.short(family) for family in families])
    return out[0]


def _curve(ax: Any, cells: list[CellResult], unit: Unit, style: SeriesStyle) -> Any:
    x = [cell.cost(unit).value for cell in cells]
    y = [100 * cell.accuracy.value for cell in cells]
    below = [100 * (cell.accuracy.value - cell.accuracy.low) for cell in cells]
    above = [100 * (cell.accuracy.high - cell.accuracy.value) for cell in cells]
    ax.errorbar(x, y, yerr=[below, above], fmt="none", ecolor=style.colour, elinewidth=1, alpha=0.3, zorder=2)
    return ax.plot(
        x, y, color=style.colour, marker=style.marker, linestyle=style.line, markersize=5, linewidth=1.4, zorder=3
    )[0]


def _minor(ax: Any) -> Any:
    """Labels at 2 and 5 where the axis spans little more than a power of ten."""

    def label(value: float, _: int) -> str:
        low, high = ax.get_xlim()
        return _tick(float(value)) if high / low < 300 and f"{value:.0e}"[0] in "25" else ""

    return label


def _tick(value: float) -> str:
    return f"{value:.0e}".replace("e+", "e") if value >= LARGE else amount(value)


def all_cells(results: Results) -> list[Block]:
    """The table, with what it is held against said in words before it."""
    greedy, sample = results.greedy, results.one_sample
    names = list(results.cells)
    against: dict[str, dict[str, Comparison]] = {}
    for key, reference in (("greedy", greedy), ("sample", sample)):
        pairs = [
            (name, reference.name) for name in names if reference and name != reference.name and name in results.sound
        ]
        pairs = pairs if reference and not reference.broken else []
        against[key] = {c.a: c for c in statistics.compare(pairs, results.correct, results.clusters)}
    front = {cell.name for cell in results.pareto("tokens")}
    spent = [unit for unit in _OUTSIDE if any(cell.cost(unit).value for cell in results.cells.values())]
    rows = tuple(
        _row(cell, cell.name in front, {k: found.get(cell.name) for k, found in against.items()}, spent)
        for cell in results.cells.values()
    )
    held = [
        f"'against {what}' is the paired difference to the cell {reference.name}, on the questions both were asked; "
        f"p is of the exact sign-flip test of clusters (McNemar's where each has one question), Holm-corrected for the {len(against[key])} cells of this column."
        for key, what, reference in (("greedy", "greedy", greedy), ("sample", "one sample", sample))
        if reference is not None
    ]
    words = [
        "Costs are means a question. Prefilled tokens were computed, cached ones were in the KV cache and were not; "
        "Then answers are counted: 'empty' had nothing in them to match, 'malformed' have a broken stage, 'spent' are of "
        "searches that a budget ended, 'not asked' are errors. 'Verifier failures' counts calls that failed, 'failed on' the "
        "questions that they hit. A cell whose verifier never worked, or left more than 5 % of its candidates without a score, "
        "is on no front and compared with nothing.",
        *held,
    ]
    if results.unequal:
        words.append("Not all cells were asked the same questions: their accuracies compare only where paired.")
    columns = _columns(greedy is not None, sample is not None, spent)
    return [*(Paragraph(item) for item in words), Table("cells", columns, rows, filtered=True)]


def _row(
    cell: CellResult, on_front: bool, against: dict[str, Comparison | None], spent: Sequence[Unit]
) -> dict[str, Any]:
    records = cell.records
    greedy, sample = against["greedy"], against["sample"]
    return {
        "cell": cell.name, "family": cell.family, "strategy": cell.strategy, "verifier": cell.verifier, "n": len(cell.correct),
        "width": cell.width, "accuracy": cell.accuracy,
        "coverage_loss": cell.coverage_loss, "selection_loss": cell.selection_loss,
        "against_greedy": greedy and greedy.difference, "p_greedy": greedy and greedy.p_holm,
        "against_sample": sample and sample.difference, "p_sample": sample and sample.p_holm,
        "generated": cell.used("generator", "generated_tokens"),
        "verifier_generated": cell.used("verifier", "generated_tokens"),
        "prefilled": cell.used("generator", "prefilled_tokens"),
        "verifier_prefilled": cell.used("verifier", "prefilled_tokens"),
        "cached": cell.used("generator", "cached_tokens"), "verifier_cached": cell.used("verifier", "cached_tokens"),
        "model_calls": cell.cost("model_calls"), "verifier_calls": cell.cost("verifier_calls"), "flops": cell.cost("flops"),
        **{unit: cell.cost(unit) for unit in spent},
        "on_front": on_front,
        "empty": sum(r.status == "empty" and not r.error for r in records),
        "abstained": sum(r.status == "abstained" for r in records), "refused": sum(r.status == "refused" for r in records),
        "malformed": sum(not r.valid for r in records), "spent": sum(r.stopped_by is not None for r in records),
        "not_asked": sum(bool(r.error) for r in records), "verifier_failures": sum(len(r.failures) for r in records),
        "failed_on": sum(bool(r.failures) for r in records), "broken": cell.broken,
    }  # fmt: skip


_OUTSIDE: dict[Unit, str] = {"dollars": "US dollars", "api_calls": "API calls"}
"""Costs that are shown where a cell has any."""


def _spent(value: Estimate) -> str:
    """Cents and their fractions are to be seen."""
    known = value.error > 0 and value.groups >= statistics.FEW
    return f"{value.value:.3g}{f' ± {value.error:.1g}' if known else ''}"


def _columns(greedy: bool, sample: bool, spent: Sequence[Unit]) -> tuple[Column, ...]:
    def two(key: str, title: str) -> list[Column]:
        return [Column(key, f"{title}, tokens", amount), Column(f"verifier_{key}", f"by verifier: {title}", amount)]

    against = [
        *([Column("against_greedy", "against greedy", points), Column("p_greedy", "p", p_value)] if greedy else []),
        *([Column("against_sample", "against one sample", points), Column("p_sample", "p", p_value)] if sample else []),
    ]
    return (
        Column("cell", "cell", text=True), Column("n", "questions"), Column("accuracy", "accuracy, %", percent),
        Column("accuracy", "95 % interval", interval), Column("coverage_loss", "coverage loss, points", points),
        Column("selection_loss", "selection loss, points", points), *against, *two("generated", "generated"),
        *two("prefilled", "prefilled"), *two("cached", "cached"), Column("flops", "FLOPs", amount),
        *(Column(unit, _OUTSIDE[unit], _spent) for unit in spent),
        Column("on_front", "Pareto front", lambda on: "yes" if on else ""), Column("empty", "empty"),
        Column("abstained", "abstained"),
        Column("refused", "refused"), Column("malformed", "malformed"), Column("spent", "spent"),
        Column("not_asked", "not asked"), Column("verifier_failures", "verifier failures", text),
        Column("failed_on", "failed on"), Column("broken", "no evidence", text),
    )  # fmt: skip
