"""Each family's best cell against each other one: exact McNemar, Holm, and the verdict in words."""

from __future__ import annotations

import itertools

from structdecode.evaluation import statistics
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.section import Column, Items, Section, Table, Words, interval, p_value, points
from structdecode.evaluation.statistics import Comparison


def section(results: Results) -> Section:
    found = pairs(results)
    if not found:
        return Section(
            "comparisons", "Which beats which", (Words("There is only one family of cells: nothing to compare."),)
        )
    shown = tuple(statistics.verdict(c) for c in found if c.shown)
    not_shown = tuple(statistics.verdict(c) for c in found if not c.shown)
    rows = tuple(
        {
            "a": c.a, "b": c.b, "difference": c.difference, "n": c.difference.n, "unpaired": c.unpaired,
            "only_a": c.only_a, "only_b": c.only_b, "p": c.p, "p_holm": c.p_holm, "shown": c.shown,
        }
        for c in found
    )  # fmt: skip
    words = (
        "The best cell of each family, in pairs, on the questions that both were asked. The best was picked on these same "
        "questions, so its accuracy is on the high side, and more so for a family with more cells; the section above "
        "compares at the same cost without picking. p is of the exact two-sided McNemar test, Holm-corrected for the "
        f"{len(found)} comparisons of this table."
    )
    lists = [
        *(
            [Items(shown, f"{len(shown)} differences shown")]
            if shown
            else [Words("No difference is shown between any two.")]
        ),
        *([Items(not_shown, f"{len(not_shown)} pairs with no difference shown")] if not_shown else []),
    ]
    return Section(
        "comparisons", "Which beats which", (Words(words), *lists, Table("pairs", COLUMNS, rows, filtered=True))
    )


COLUMNS = (
    Column("a", "A", text=True), Column("b", "B", text=True), Column("difference", "A - B, points", points),
    Column("difference", "95 % interval", interval), Column("n", "questions"), Column("unpaired", "left out as unpaired"),
    Column("only_a", "only A right"), Column("only_b", "only B right"), Column("p", "p", p_value),
    Column("p_holm", "p, corrected", p_value), Column("shown", "shown", lambda shown: "yes" if shown else "no"),
)  # fmt: skip


def pairs(results: Results) -> list[Comparison]:
    best = [cell.name for cell in results.best.values()]
    return statistics.compare(list(itertools.combinations(best, 2)), results.correct)
