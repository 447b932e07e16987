"""How well each verifier tells right from wrong candidates of one question, stage by stage."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from structdecode.evaluation import statistics
from structdecode.evaluation.recording import WHOLE_ANSWER
from structdecode.evaluation.report.results import CellResult, Results, stage_name
from structdecode.evaluation.report.section import Block, Column, Paragraph, Section, Table, share
from structdecode.records.types import Record

Scores = list[tuple[list[float], list[float]]]
"""Of each question the scores of its right and of its wrong candidates."""


ENOUGH = 0.6
"""Within-question AUC under which no gain over voting is to be expected (CASE, arXiv 2608.17124)."""


def promise(auc: float) -> str:
    """What a verifier of this AUC of whole answers promises."""
    return "a gain may be had" if auc >= ENOUGH else "no gain over voting"


def section(results: Results) -> Section:
    rows = [row for cell in widest(results) for row in cell_rows(cell)]
    if not rows:
        words = Paragraph("No verifier scored a right and a wrong candidate of one question.")
        return Section("verifiers", "Verifier quality by stage", (words,))
    blocks: list[Block] = [
        Paragraph(
            "AUC within a question: the share of pairs of a right and a wrong candidate of one question in which the "
            "right one has the higher score, ties as half. 0.5 is chance, 1 never errs; the interval is by the "
            "bootstrap over clusters of questions. Of each family the widest cell is taken, since narrower ones hold the same samples."
        ),
        Paragraph(
            "A stage's candidate is right where its text is the reference's; a whole answer where its answer matches. "
            "Candidates differ from strategy to strategy, so compare verifiers within one strategy."
        ),
        Paragraph(
            f"A verifier whose AUC of whole answers is under {ENOUGH:.2f} is not expected to gain anything over voting "
            "(CASE, arXiv 2608.17124)."
        ),
        Table("auc", COLUMNS, tuple(rows), filtered=True),
    ]
    return Section("verifiers", "Verifier quality by stage", tuple(blocks))


COLUMNS = (
    Column("verifier", "verifier", text=True), Column("cell", "in cell", text=True),
    Column("stage", "stage", text=True), Column("auc", "AUC", share),
    Column("auc", "95 % interval", lambda e: "-" if math.isnan(e.low) else f"{e.low:.3f} to {e.high:.3f}"), Column("pairs", "pairs"),
    Column("questions", "questions"), Column("right", "right candidates, %", lambda v: f"{100 * v:.1f}"),
    Column("unscored", "unscored candidates"), Column("expect", "to be expected", text=True),
)  # fmt: skip


def widest(results: Results) -> list[CellResult]:
    return [cells[-1] for cells in results.families.values() if cells[-1].width > 1]


def cell_rows(cell: CellResult) -> list[dict[str, Any]]:
    """One row for each verifier and stage, in the order in which the stages are scored."""
    found: dict[tuple[str, str], Scores] = defaultdict(list)
    unscored: dict[tuple[str, str], int] = defaultdict(int)
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record, cluster in zip(cell.records, cell.keys, strict=True):
        for key, scored in _of_record(record).items():
            keys[key].append(cluster)
            found[key].append(
                ([v for ok, v in scored if ok and v is not None], [v for ok, v in scored if not ok and v is not None])
            )
            unscored[key] += sum(value is None for _, value in scored)
    rows = []
    for (verifier, stage), questions in found.items():
        estimate, pairs = statistics.auc(questions, keys[verifier, stage])
        right, wrong = sum(len(r) for r, _ in questions), sum(len(w) for _, w in questions)
        if pairs:
            rows.append({
                "verifier": verifier, "cell": cell.name, "stage": stage_name(stage), "auc": estimate, "pairs": pairs,
                "questions": estimate.n, "right": right / (right + wrong), "unscored": unscored[verifier, stage],
                "expect": promise(estimate.value) if stage == WHOLE_ANSWER else "",
            })  # fmt: skip
    return rows


def _of_record(record: Record) -> dict[tuple[str, str], list[tuple[bool, float | None]]]:
    """By verifier and stage, of each candidate whether it is right and its score; later rounds of a stage overrule."""
    stages: dict[tuple[str, str], dict[tuple[int, ...], tuple[bool, float | None]]] = defaultdict(dict)
    for found in record.rounds:
        for path, value, right in zip(found.paths, found.values, found.right, strict=True):
            if right is not None:
                stages[found.verifier, found.stage][path] = (right, value)
    scored = {key: list(candidates.values()) for key, candidates in stages.items()}
    if not record.rounds and any(candidate.score is not None for candidate in record.pool):
        own = record.verifier or f"{record.strategy} (its own)"  # a majority vote ranks without a verifier
        scored[own, WHOLE_ANSWER] = [(candidate.correct, candidate.score) for candidate in record.pool]
    return scored
