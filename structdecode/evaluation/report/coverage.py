"""What was generated apart from what was chosen: pass@N (an oracle's choice) beside the verifier's and a blind one."""

from __future__ import annotations

from collections.abc import Mapping

from structdecode.evaluation import statistics
from structdecode.evaluation.report import figures
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.evaluation.report.section import Block, Column, Figure, Paragraph, Section, Table, percent, points
from structdecode.evaluation.statistics import Estimate


def section(results: Results) -> Section:
    wide = [cell for cell in results.cells.values() if any(len(record.pool) > 1 for record in cell.records)]
    if not wide:
        nothing = Paragraph("No cell had more than one finished candidate to choose from.")
        return Section("coverage", "Generated against chosen", (nothing,))
    blocks: list[Block] = [
        Paragraph(
            "pass@N is the share of questions for which any finished candidate was right: what a perfect choice among "
            "them would get. A blind choice takes one of them at random. What the search itself chose lies between. What "
            "is missing from pass@N to 100 % is lost by generation (coverage loss), from the choice to pass@N by selection."
        )
    ]
    source = independent(results)
    if source is not None:
        name = source.name
        words = (
            f"Accuracy by the number of candidates N. Thick: pass@k of independent samples, the unbiased estimate "
            f"(Chen et al. 2021) from the pools of {name}. Thin: what each family chose."
        )
        blocks.append(Figure("coverage", curves(results, source), words))
        rows = tuple({"k": k, "pass_at_k": value} for k, value in pass_at(source).items())
        blocks.append(Table("pass_at", (Column("k", "k"), Column("pass_at_k", "pass@k, %", percent)), rows))
    blocks.append(Table("coverage", COLUMNS, tuple(row(cell) for cell in wide), filtered=True))
    return Section("coverage", "Generated against chosen", tuple(blocks))


COLUMNS = (
    Column("cell", "cell", text=True), Column("pool", "candidates", lambda value: f"{value:.1f}"),
    Column("blind", "blind choice, %", percent), Column("chosen", "chosen, %", percent),
    Column("covered", "pass@N, %", percent), Column("gained", "chosen - blind", points),
    Column("coverage_loss", "coverage loss, points", points), Column("selection_loss", "selection loss, points", points),
)  # fmt: skip


def row(cell: CellResult) -> Mapping[str, object]:
    blind = [sum(c.correct for c in r.pool) / len(r.pool) if r.pool else float(r.correct) for r in cell.records]
    gained = [float(r.correct) - share for r, share in zip(cell.records, blind, strict=True)]
    return {
        "cell": cell.name, "pool": sum(len(r.pool) for r in cell.records) / len(cell.records),
        "blind": cell.random_pick, "chosen": cell.accuracy, "covered": cell.coverage,
        "gained": cell.gap(gained), "coverage_loss": cell.coverage_loss, "selection_loss": cell.selection_loss,
    }  # fmt: skip


def independent(results: Results) -> CellResult | None:
    """The cell with the most independent whole answers a question."""
    found = [cell for cell in results.cells.values() if cell.independent and cell.width > 1]
    return max(found, key=lambda cell: (cell.width, len(cell.records), cell.name), default=None)


def pass_at(cell: CellResult) -> dict[int, Estimate]:
    """pass@k for k = 1, 2, 4, ... and N, over the questions whose pool holds that many."""
    counts = [
        (len(record.pool), sum(c.correct for c in record.pool), key)
        for record, key in zip(cell.records, cell.keys, strict=True)
    ]
    steps = sorted({*(2**i for i in range(cell.width.bit_length()) if 2**i <= cell.width), cell.width})
    found = {k: [(statistics.pass_at(k, size, right), key) for size, right, key in counts if size >= k] for k in steps}
    return {k: statistics.mean([v for v, _ in known], [c for _, c in known]) for k, known in found.items() if known}


def curves(results: Results, source: CellResult) -> str:
    families = {f: cells for f, cells in results.families.items() if any(cell.width > 1 for cell in cells)}
    height = 4.2 + 0.19 * -(-(len(families) + 1) // 2)
    with figures.drawing("coverage", 9.2, height) as (figure, axes, out):
        ax = axes[0][0]
        found = pass_at(source)
        x, y = list(found), [100 * value.value for value in found.values()]
        low, high = ([100 * getattr(value, side) for value in found.values()] for side in ("low", "high"))
        ax.fill_between(x, low, high, color=figures.FAINT, alpha=0.25, linewidth=0)
        handles = [ax.plot(x, y, color=figures.FAINT, linewidth=4)[0]]
        for family, cells in families.items():
            style = results.series_styles[family]
            widths, chosen = [cell.width for cell in cells], [100 * cell.accuracy.value for cell in cells]
            (handle,) = ax.plot(
                widths,
                chosen,
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                markersize=4.5,
                linewidth=1.2,
            )
            handles.append(handle)
        ticks = sorted({cell.width for cells in families.values() for cell in cells} | set(x))
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set_xlabel("candidates N (of a whole answer, or of each stage or sentence)")
        ax.set_ylabel("accuracy, %")
        figures.legend_below(figure, handles, ["pass@k, independent samples", *map(figures.short, families)])
    return out[0]
