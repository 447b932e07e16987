"""Each cell against each other one: exact sign-flip test of clusters, Holm, and the verdict in words."""

from __future__ import annotations

import itertools

from structdecode.evaluation import statistics
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.section import (
    BulletList,
    Column,
    Paragraph,
    Section,
    Table,
    interval,
    p_value,
    points,
)
from structdecode.evaluation.statistics import Comparison


def section(results: Results) -> Section:
    found = pairs(results)
    left_out = [cell for cell in results.cells.values() if cell.broken]
    skipped = [Paragraph(f"Not tested: {cell.name}: {cell.broken}.") for cell in left_out]
    if not found:
        return Section(
            "comparisons", "Which beats which", (Paragraph("There is only one cell: nothing to compare."), *skipped)
        )
    shown = tuple(statistics.verdict(c) for c in found if c.shown)
    level = [c for c in found if not c.shown]
    not_shown = tuple(statistics.verdict(c) for c in level[:LISTED])
    more = len(level) - LISTED
    listed = (*not_shown, f"and {more} more, in the table below") if more > 0 else not_shown
    rows = tuple(
        {
            "a": c.a, "b": c.b, "difference": c.difference, "n": c.difference.n, "unpaired": c.unpaired,
            "only_a": c.only_a, "only_b": c.only_b, "p": c.p, "p_holm": c.p_holm, "shown": c.shown,
        }
        for c in found
    )  # fmt: skip
    words = (
        f"All {len(results.sound)} cells in pairs, on the questions that both were asked, at whatever cost; the section above "
        "compares at the same cost. p is of the exact two-sided sign-flip test of whole clusters, which is McNemar's where "
        f"each has one question, Holm-corrected for the {len(found)} comparisons of this table: with more cells a difference "
        "must be larger to be shown. The highest of many accuracies is on the high side."
    )
    lists = [
        *skipped,
        *(
            [BulletList(shown, f"{len(shown)} differences shown")]
            if shown
            else [Paragraph("No difference is shown between any two.")]
        ),
        *([BulletList(listed, f"{len(level)} pairs with no difference shown")] if not_shown else []),
    ]
    return Section(
        "comparisons",
        "Which beats which",
        (Paragraph(words), *lists, Table("pairs", COLUMNS, rows, filtered=True, most=MOST)),
    )


LISTED = 100
"""Pairs without a difference that are put into words."""
MOST = 300
"""Rows of the table in the page; those of the families' best cells come first, and differences shown are all in words."""
COLUMNS = (
    Column("a", "A", text=True), Column("b", "B", text=True), Column("difference", "A - B, points", points),
    Column("difference", "95 % interval", interval), Column("n", "questions"), Column("unpaired", "left out as unpaired"),
    Column("only_a", "only A right"), Column("only_b", "only B right"), Column("p", "p", p_value),
    Column("p_holm", "p, corrected", p_value), Column("shown", "shown", lambda shown: "yes" if shown else "no"),
)  # fmt: skip


def pairs(results: Results) -> list[Comparison]:
    """Of all sound cells, those with the families' best cells first."""
    best = [cell.name for cell in results.best.values()]
    names = [*best, *(name for name in results.sound if name not in best)]
    return statistics.compare(list(itertools.combinations(names, 2)), results.correct, results.clusters)
