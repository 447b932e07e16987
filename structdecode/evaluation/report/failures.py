"""What the wrong answers have in common: one failure each, counted by cell."""

from __future__ import annotations

from structdecode.evaluation import taxonomy
from structdecode.evaluation.report import figures
from structdecode.evaluation.report.results import CellResult, Results, stage_name
from structdecode.evaluation.report.section import Block, Column, Figure, Paragraph, Section, Table
from structdecode.evaluation.taxonomy import Kind

COLOURS = dict(
    zip(Kind, ("#7a8794", "#b59a1e", "#8b63c9", "#c8477f", "#3b7dd8", "#e0762f", "#2a9d5c", "#96603f"), strict=True)
)


def section(results: Results) -> Section:
    counts = {name: taxonomy.count(cell.records) for name, cell in results.cells.items()}
    if not any(sum(found.values()) for found in counts.values()):
        return Section("failures", "What went wrong", (Paragraph("No answer was wrong."),))
    kinds = [kind for kind in Kind if any(found[kind] for found in counts.values())]
    rows = tuple(
        {"cell": name, "wrong": sum(found.values()), "answers": len(results.cells[name].records), **found}
        for name, found in counts.items()
    )
    columns = (
        Column("cell", "cell", text=True), Column("answers", "answers"), Column("wrong", "wrong"),
        *(Column(str(kind), str(kind)) for kind in kinds),
    )  # fmt: skip
    blocks: list[Block] = [
        Paragraph(
            "Each wrong answer has one failure, the first that holds of: not asked (an error), refused or abstained, "
            "budget spent, bad format, chosen badly (a right answer, or a right stage, was at hand and lost), wrong "
            "caption, wrong reasoning (or arithmetic, or conclusion; the caption is right), never generated (none right, "
            "no reference stages to tell more). A stage is right where its text is the reference's."
        ),
        Figure("failures", bars(results, counts, kinds), "Share of each cell's questions by failure."),
        Table("failures", columns, rows, filtered=True),
    ]
    chosen = tuple(row for cell in results.cells.values() for row in _bad_choices(cell))
    if chosen:
        titles = (
            Column("cell", "cell", text=True),
            Column("stage", "chosen badly at", text=True),
            Column("count", "times"),
        )
        blocks.append(Table("chosen_badly", titles, chosen, filtered=True))
    return Section("failures", "What went wrong", tuple(blocks))


def _bad_choices(cell: CellResult) -> list[dict[str, object]]:
    found = taxonomy.bad_choices(cell.records)
    return [{"cell": cell.name, "stage": stage_name(stage), "count": count} for stage, count in found.items()]


def bars(results: Results, counts: dict[str, dict[str, int]], kinds: list[Kind]) -> str:
    """Stacked, one bar a cell, in the study's order from the top."""
    names = list(counts)
    with figures.drawing("failures", 9.2, 1.3 + 0.2 * len(names)) as (figure, axes, out):
        ax = axes[0][0]
        left = [0.0] * len(names)
        handles = []
        for kind in kinds:
            shares = [100 * counts[name][kind] / len(results.cells[name].records) for name in names]
            handles.append(ax.barh(range(len(names)), shares, left=left, color=COLOURS[kind], height=0.72))
            left = [start + width for start, width in zip(left, shares, strict=True)]
        ax.set_yticks(range(len(names)), [figures.short(name, 48) for name in names], fontsize=8)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("wrong answers, % of the cell's questions")
        figures.legend_below(figure, handles, [str(kind) for kind in kinds])
    return out[0]
