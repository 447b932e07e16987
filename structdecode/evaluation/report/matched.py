"""Families of cells at the same cost: at each budget what each of them gets, and how it was matched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from structdecode.evaluation import costs, statistics
from structdecode.evaluation.costs import Matched, Unit
from structdecode.evaluation.report.results import UNIT_NAMES, Results
from structdecode.evaluation.report.section import (
    Block,
    BulletList,
    Column,
    Paragraph,
    Section,
    Table,
    amount,
    interval,
    p_value,
    percent,
    points,
)

MULTIPLES = (2, 4, 8, 16, 32)
"""Budgets, in costs of one sampled staged answer."""


def section(results: Results) -> Section:
    if len(results.families) < 2:
        words = Paragraph("There is only one family of cells: nothing to match.")
        return Section("matched", "At the same cost", (words,))
    blocks: list[Block] = [
        Paragraph(
            "A family is a strategy with its verifier; its cells differ in N. At a budget it gets what lies between its "
            "dearest cell within the budget and the next one, in proportion to the cost: a mix of the two, question by "
            "question. A family whose cells all cost less gets its dearest one, with no credit for what it did not "
            "spend; one whose cells all cost more has no figure. Cells that are no evidence are left out."
        )
    ]
    for unit in results.units():
        if unit != "generated_tokens":
            blocks.extend(at_budgets(results, unit))
    return Section("matched", "At the same cost", tuple(blocks))


def budgets(results: Results, unit: Unit) -> tuple[str, dict[int, float]]:
    """By multiple, up to the dearest cell; and the name of the cell that is 1."""
    cells = results.cells.values()
    base = results.one_sample or results.greedy or min(cells, key=lambda cell: cell.cost(unit).value)
    one, dearest = base.cost(unit).value, max(cell.cost(unit).value for cell in cells)
    return base.name, {multiple: multiple * one for multiple in MULTIPLES if one > 0 and multiple * one <= dearest}


def at_budgets(results: Results, unit: Unit) -> list[Block]:
    """The table in one unit, the pairs within it, and the pairs in words."""
    base, levels = budgets(results, unit)
    if not levels:
        return [Paragraph(f"No cell costs twice as many {unit} as one answer by {base}: there is nothing to match.")]
    by_cell = {name: cell.records for name, cell in results.sound.items()}
    family_cells = {family: [cell.name for cell in cells] for family, cells in results.families.items()}
    rows: list[dict[str, Any]] = []
    values: dict[str, dict[str, float]] = {}
    pairs: list[tuple[str, str]] = []
    for multiple, budget in levels.items():
        found = [m for m in costs.matched(by_cell, family_cells, budget, unit) if m.accuracy is not None]
        for match in found:
            values[_at(match.family, multiple)] = mixed(match, results.correct)
            rows.append(_row(match, multiple, values[_at(match.family, multiple)], results))
        pairs += [(_at(a, multiple), _at(b, multiple)) for a, b in comparable(results, found)]
    compared = statistics.paired_means(pairs, values, results.clusters)
    name = f"matched_{unit}"
    heading = Paragraph(
        f"Matched by {UNIT_NAMES[unit]}. Budgets are multiples of the mean cost of one answer by {base}."
    )
    shown = tuple(statistics.in_words(*pair) for pair in compared if pair[0].shown)
    others = tuple(statistics.in_words(*pair) for pair in compared if not pair[0].shown)
    words = [
        BulletList(items, f"{len(items)} {what}")
        for items, what in ((shown, "differences shown at the same cost"), (others, "pairs with no difference shown"))
        if items
    ]
    found_pairs = tuple(
        {"a": c.a, "b": c.b, "difference": c.difference, "p": c.p, "p_holm": c.p_holm, "n": c.difference.n}
        for c, _ in compared
    )
    blocks: list[Block] = [heading, Table(name, COLUMNS, tuple(rows), filtered=True)]
    if pairs:
        blocks += [Paragraph(PAIRED), *words, Table(f"{name}_pairs", PAIR_COLUMNS, found_pairs, filtered=True)]
    return blocks


PAIRED = (
    "Pairs of swept families at the same budget that share a verifier, or of which one has none. Paired by question; "
    "p is of the paired t-test on the mixed answers with clustered errors, Holm-corrected over this table."
)
COLUMNS = (
    Column("multiple", "budget", lambda m: f"{m}x"), Column("family", "family", text=True),
    Column("accuracy", "accuracy, %", percent), Column("accuracy", "95 % interval", interval),
    Column("spent", "spent", amount), Column("budget", "of", amount), Column("how", "how it was matched", text=True),
)  # fmt: skip
PAIR_COLUMNS = (
    Column("a", "A", text=True), Column("b", "B", text=True), Column("difference", "A - B, points", points),
    Column("difference", "95 % interval", interval), Column("n", "questions"), Column("p", "p", p_value),
    Column("p_holm", "p, corrected", p_value),
)  # fmt: skip


def _at(family: str, multiple: int) -> str:
    return f"{family} at {multiple}x"


def _row(match: Matched, multiple: int, values: Mapping[str, float], results: Results) -> dict[str, Any]:
    spent = match.below_cost if match.above is None else match.budget
    accuracy = statistics.mean(list(values.values()), [results.clusters.get(i, i) for i in values])
    return {
        "multiple": multiple, "family": match.family, "accuracy": accuracy, "budget": match.budget, "spent": spent,
        "below": match.below, "above": match.above, "share": match.share, "how": match.how,
    }  # fmt: skip


def mixed(match: Matched, correct: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """By question, what the mix of the two cells gets; on the questions that both were asked."""
    below = correct[match.below or ""]
    if match.above is None:
        return {i: float(right) for i, right in below.items()}
    above = correct[match.above]
    return {i: (1 - match.share) * below[i] + match.share * above[i] for i in below if i in above}


def comparable(results: Results, found: list[Matched]) -> list[tuple[str, str]]:
    """Swept families that share a verifier, or one of which has none; in the study's order."""
    swept = [m.family for m in found if len(results.families[m.family]) > 1]
    verifier = {family: results.families[family][0].verifier for family in swept}
    return [
        (a, b)
        for at, a in enumerate(swept)
        for b in swept[at + 1 :]
        if verifier[a] == verifier[b] or None in (verifier[a], verifier[b])
    ]
