"""Wall-clock time. It depends on the machine and on what ran beside it, so no figure of it is in ``tables.json``."""

from __future__ import annotations

from structdecode.evaluation.report.results import Results, spread
from structdecode.evaluation.report.section import Column, Paragraph, Section, Table, amount


def section(results: Results) -> Section:
    rows = []
    for cell in results.cells.values():
        generated = cell.cost("generated_tokens").value
        seconds = spread([record.seconds for record in cell.records], cell.keys)
        rate = generated / seconds.value if seconds.value > 0 else None
        rows.append({"cell": cell.name, "seconds": seconds, "tokens_per_second": rate})
    columns = (
        Column("cell", "cell", text=True), Column("seconds", "seconds a question", amount),
        Column("tokens_per_second", "generated tokens a second", amount),
    )  # fmt: skip
    words = (
        "From a question's start to its end, while others ran beside it: seconds of one machine, not a cost to compare "
        "by. Everything else in this report comes out the same when the run is repeated; these figures do not."
    )
    if "replayed" in results.run.study:
        words += (
            f" The searches were replayed from the pool `{results.run.study['replayed']}`: seconds and tokens a second are the "
            "replay's own, and say nothing of the model."
        )
    return Section(
        "timings",
        "Time (depends on the machine)",
        (Paragraph(words), Table("timings", columns, tuple(rows), filtered=True, repeatable=False)),
    )
