"""From a run directory to its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from structdecode.core.paths import write_atomically
from structdecode.evaluation.report import (
    accuracy,
    comparisons,
    coverage,
    disagreements,
    failures,
    left_out,
    matched,
    page,
    provenance,
    timings,
    verifiers,
)
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.section import Paragraph, Section
from structdecode.evaluation.soundness import first_failure
from structdecode.evaluation.statistics import FEW
from structdecode.records.store import read_run

SECTIONS: tuple[Callable[[Results], Section], ...] = (
    accuracy.section, matched.section, comparisons.section, coverage.section, verifiers.section, failures.section,
    disagreements.section, left_out.section, provenance.section, timings.section,
)  # fmt: skip
"""In the order of the report. Those from `accuracy` to `disagreements` need a finished question."""
_ALWAYS = (left_out.section, provenance.section)


def write(run_dir: str | Path) -> Path:
    """Writes ``report.md``, ``report.html``, ``figures/*.svg``, ``tables.json`` and ``timings.json`` into a run directory.

    ``tables.json`` and the figures are the same byte for byte when the run is repeated; what depends on the machine is
    in ``timings.json``.

    Returns:
        The page.

    Raises:
        ConfigError: it is not a run directory.
        MissingExtraError: matplotlib or scipy is not installed.
    """
    directory = Path(run_dir)
    results = Results(read_run(directory))
    sections = [make(results) for make in (SECTIONS if results.cells else _ALWAYS)]
    title, lead = f"Comparison: {directory.resolve().name}", summary(results)
    (directory / "figures").mkdir(exist_ok=True)
    for section in sections:
        for figure in section.figures:
            write_atomically(directory / "figures" / f"{figure.name}.svg", figure.svg)
    tables = {section.id: section.tables for section in sections if section.tables}
    machine = {section.id: section.machine_tables for section in sections if section.machine_tables}
    write_atomically(directory / "tables.json", _json(tables))
    write_atomically(directory / "timings.json", _json(machine))
    head = "\n\n".join([f"# {Paragraph(title).markdown()}", *(Paragraph(paragraph).markdown() for paragraph in lead)])
    write_atomically(directory / "report.md", "\n\n".join([head, *(section.markdown() for section in sections)]) + "\n")
    target = directory / "report.html"
    write_atomically(target, page.html(title, lead, sections))
    return target


def summary(results: Results) -> list[str]:
    """The outcome in a few sentences."""
    if not results.cells:
        return ["No question is finished yet: resume the run, then write the report again."]
    cells = list(results.cells.values())
    sentences = [
        f"{len(cells)} cells ({len(results.families)} families), {results.planned} questions; model "
        f"{(results.run.study['config'].get('model') or {}).get('name', 'unknown')}, "
        f"data {(results.run.study['config'].get('data') or {}).get('name') or 'unknown'}.",
        *(f"Replayed from the pool {pool}." for pool in [results.run.study.get("replayed")] if pool),
        *(f"No evidence: {cell.name}: {cell.broken}." for cell in cells if cell.broken),
        _highest(results),
    ]
    if results.unfinished:
        sentences.append(
            f"{len(results.unfinished)} cells are not finished: comparisons are paired on the questions that both cells "
            "were asked."
        )
    return sentences


def _highest(results: Results) -> str:
    """The highest accuracy among cells that worked, with what is to be held against it."""
    cells = list(results.sound.values())
    if not cells:
        return "No cell worked, so none is the best."
    best = max(cells, key=lambda cell: (cell.accuracy.value, -cell.cost("tokens").value))
    few = f", from {best.accuracy.groups} independent questions only" if best.accuracy.groups < FEW else ""
    records = best.records
    flaws = [
        f"{count} of its {len(records)} answers {what}"
        for count, what in (
            (sum(record.status == "empty" and not record.error for record in records), "are empty"),
            (sum(bool(record.error) for record in records), "could not be asked for"),
            (
                sum(bool(record.failures) for record in records),
                f"met a verifier that failed (first error: {first_failure(records)})",
            ),
        )
        if count
    ]
    against = f" But {', '.join(flaws)}." if flaws else ""
    front = results.pareto("tokens")
    return (
        f"Highest accuracy: {best.name}, {100 * best.accuracy.value:.1f} % (95% CI {100 * best.accuracy.low:.1f} to "
        f"{100 * best.accuracy.high:.1f}{few}), at {best.cost('tokens').value:,.0f} tokens a question."
        f"{against} "
        f"On the Pareto front of accuracy against tokens: {', '.join(cell.name for cell in front)}."
    )


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
