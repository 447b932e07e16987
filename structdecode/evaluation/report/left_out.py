"""Rows of the data that were left out, and questions that are still to be asked."""

from __future__ import annotations

from collections import Counter, defaultdict

from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.section import Block, BulletList, Column, Paragraph, Section, Table

LISTED = 50
"""Rows that are listed of each problem; ``rejected.jsonl`` has all."""


def section(results: Results) -> Section:
    blocks: list[Block] = []
    rejected = results.run.rejected
    counts = Counter(row.problem for row in rejected)
    blocks.append(Paragraph(f"{len(rejected)} rows of the data were left out; {results.planned} questions were read."))
    if counts:
        rows = tuple({"problem": problem, "rows": count} for problem, count in sorted(counts.items()))
        blocks.append(Table("left_out", (Column("problem", "problem", text=True), Column("rows", "rows")), rows))
        by_problem = defaultdict(list)
        for row in rejected:
            by_problem[row.problem].append(str(row))
        for problem, messages in sorted(by_problem.items()):
            more = [f"and {len(messages) - LISTED} more, in rejected.jsonl"] if len(messages) > LISTED else []
            blocks.append(BulletList((*messages[:LISTED], *more), f"{problem} ({len(messages)})"))
    if results.unfinished:
        items = tuple(f"{name}: {done} of {results.planned}" for name, done in results.unfinished.items())
        blocks.append(Paragraph("These cells are not finished; resume the run and write the report again."))
        blocks.append(BulletList(items, f"{len(items)} cells not finished"))
    else:
        blocks.append(Paragraph("All cells are finished."))
    errors = [(record.cell, record.id, record.error) for record in results.run.records if record.error]
    if errors:
        shown = tuple(f"{cell}, {id}: {error}" for cell, id, error in errors[:LISTED])
        blocks.append(
            BulletList(shown, f"{len(errors)} questions could not be asked; they count as wrong (first {len(shown)})")
        )
    return Section("left-out", "Left out", tuple(blocks))
