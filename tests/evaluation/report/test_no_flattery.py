"""Law 11: what failed, was left out or came back empty is counted beside the figure, and what failed does not win."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from structdecode.evaluation.report import write
from structdecode.evaluation.report.section import percent, share
from structdecode.evaluation.statistics import auc, mean
from tests.evaluation.report.runs import Plan, Simulation

Change = Callable[[dict[str, Any], int], None]
GREEDY = Plan("staged", temperature=0.0)
SEARCH = Plan("best-of-n", "p-true", 4)


def reported(directory: Path, plans: list[Plan], change: Change, questions: int = 30) -> tuple[dict[str, Any], str]:
    """The tables and the page of a simulated run whose records were changed."""
    Simulation(directory, plans, questions, 0).write()
    records = [json.loads(line) for line in (directory / "records.jsonl").read_text().splitlines()]
    for record in records:
        change(record, int(record["id"][1:]))
    (directory / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write(directory)
    return json.loads((directory / "tables.json").read_text()), (directory / "report.md").read_text()


def fail_verifier(record: dict[str, Any], at: int) -> None:
    """A verifier that raised on every candidate, on answers that chance had right."""
    record["correct"] = record["strategy"] != "staged"
    if record["verifier"]:
        record["failures"] = ["p-true: ValueError: no such head"]
        record["rounds"] = [{**r, "values": [None] * len(r["values"])} for r in record["rounds"]]


def test_a_verifier_that_never_worked_does_not_win(tmp_path: Path) -> None:
    tables, page = reported(tmp_path, [GREEDY, SEARCH, Plan("best-of-n", "p-true", 8)], fail_verifier)
    head = page.split("## ")[0]
    assert "Highest accuracy: staged," in head and "Pareto front of accuracy against tokens: staged." in head
    assert "its verifier never worked (first error: p-true: ValueError: no such head)" in head
    rows = {row["cell"]: row for row in tables["accuracy"]["cells"]}
    assert not rows[SEARCH.name]["on_front"] and rows[SEARCH.name]["failed_on"] == 30 and rows[SEARCH.name]["broken"]
    assert "pairs" not in tables.get("comparisons", {}) and f"Not tested: {SEARCH.name}" in page.replace("\\", "")


def test_money_is_shown_where_it_was_spent(tmp_path: Path) -> None:
    def pay(record: dict[str, Any], at: int) -> None:
        if record["verifier"]:
            record["usage"]["verifier"] |= {"dollars": 0.002 + 0.0001 * at, "api_calls": 3}

    tables, page = reported(tmp_path / "paid", [GREEDY, SEARCH], pay)
    assert "US dollars" in page and "API calls" in page and "0.00345 ± 0.0002" in page
    assert {row["cell"]: row["api_calls"]["value"] for row in tables["accuracy"]["cells"]}[SEARCH.name] == 3
    tables, page = reported(tmp_path / "free", [GREEDY, SEARCH], lambda record, at: None)
    assert "dollars" not in page and "dollars" not in json.dumps(tables)


def test_a_verifier_that_failed_now_and_then_is_counted(tmp_path: Path) -> None:
    def change(record: dict[str, Any], at: int) -> None:
        fail_verifier(record, at) if at < 1 else record.update(correct=record["strategy"] != "staged")

    tables, page = reported(tmp_path, [GREEDY, SEARCH], change)
    (row,) = (row for row in tables["accuracy"]["cells"] if row["cell"] == SEARCH.name)
    assert row["failed_on"] == 1 and not row["broken"]
    head = page.split("## ")[0]
    assert f"Highest accuracy: {SEARCH.name}" in head and f"against tokens: staged, {SEARCH.name}" in head
    said = "1 of its 30 answers met a verifier that failed (first error: p-true: ValueError: no such head)"
    assert said in head


@pytest.mark.parametrize("raised", [True, False], ids=["an exception", "replies that cannot be read"])
def test_a_verifier_that_failed_often_does_not_win(tmp_path: Path, raised: bool) -> None:
    """Above one candidate in twenty what is chosen is not what the cell's name says, however right it is by chance."""

    def change(record: dict[str, Any], at: int) -> None:
        record.update(correct=record["strategy"] != "staged", stopped_by=None)
        if record["verifier"] and at < 7:
            fail_verifier(record, at)
            if not raised:
                record["failures"] = []
                record["rounds"] = [{**r, "reason": "no score in 'Hmm.'"} for r in record["rounds"]]

    tables, page = reported(tmp_path, [GREEDY, SEARCH], change)
    head = page.split("## ")[0].replace("\\", "")
    error = "ValueError: no such head" if raised else "no score in 'Hmm.'"
    assert "Highest accuracy: staged," in head and "Pareto front of accuracy against tokens: staged." in head
    assert f"No evidence: {SEARCH.name}: its verifier p-true gave no score to 28 of 120 candidates" in head
    assert f"(first error: p-true: {error})" in head
    assert not next(row for row in tables["accuracy"]["cells"] if row["cell"] == SEARCH.name)["on_front"]
    assert f"Not tested: {SEARCH.name}" in page.replace("\\", "")


def test_what_a_verifier_is_not_for_and_what_a_budget_ended_is_no_failure(tmp_path: Path) -> None:
    beam = Plan("stage-beam", "p-true", 4)

    def change(record: dict[str, Any], at: int) -> None:
        without = ("SUMMARY", "CAPTION") if at < 15 else ("SUMMARY", "CAPTION", "REASONING")
        record["stopped_by"] = "tokens" if at >= 15 else None
        record["rounds"] = [
            {**r, "values": [None] * len(r["values"])} if r["stage"] in without else r for r in record["rounds"]
        ]

    tables, _ = reported(tmp_path, [GREEDY, beam], change)
    assert not next(row for row in tables["accuracy"]["cells"] if row["cell"] == beam.name)["broken"]


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    def change(record: dict[str, Any], at: int) -> None:
        record.update(status="empty" if at < 28 else "answered", correct=at >= 28, error="")

    tables, page = reported(tmp_path, [GREEDY], change)
    assert tables["accuracy"]["cells"][0]["empty"] == 28
    assert "28 of its 30 answers are empty" in page.split("## ")[0]


def test_every_cell_is_tested_and_disagreements_of_one_family_are_seen(tmp_path: Path) -> None:
    plans = [Plan("stage-beam", "p-true", n) for n in (1, 2, 4)]
    tables, page = reported(
        tmp_path, plans, lambda record, at: record.update(correct=at % 3 == len(record["pool"]) % 3)
    )
    assert len(tables["comparisons"]["pairs"]) == 3 and "Holm-corrected for the 3 comparisons" in page
    assert sum(row["count"] for row in tables["disagreements"]["disagreements"]) > 0
    assert "No two cells disagree" not in page and "All 3 cells in pairs" in page


def test_seeds_are_one_cell_with_its_variance_split(tmp_path: Path) -> None:
    plans = [Plan("direct", label="direct"), Plan("direct", label="direct/seed=1"), GREEDY]
    Simulation(tmp_path, plans, 30, 0).write()
    study = json.loads((tmp_path / "study.json").read_text())
    for cell, seed in zip(study["config"]["cells"], (0, 1, 0), strict=True):
        cell.update(seed=seed)
    study["config"]["cells"][0].update(name="direct/seed=0", family="direct/seed=0")
    (tmp_path / "study.json").write_text(json.dumps(study))
    lines = []
    for line in (tmp_path / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        at = int(record["id"][1:])
        if record["cell"].startswith("direct"):
            seed = int(record["cell"] != "direct")
            record.update(cell=f"direct/seed={seed}", seed=seed, correct=at % 2 == 0 if at < 20 else bool(seed))
        lines.append(json.dumps(record) + "\n")
    (tmp_path / "records.jsonl").write_text("".join(lines))
    write(tmp_path)
    tables = json.loads((tmp_path / "tables.json").read_text())
    row = next(row for row in tables["accuracy"]["cells"] if row["cell"] == "direct")
    assert row["n"] == 30 and len(tables["accuracy"]["cells"]) == 2
    means = [1.0, 0.0] * 10 + [0.5] * 10  # of each question's two seeds
    centre = sum(means) / 30
    spread = sum((m - centre) ** 2 for m in means) / 29
    assert row["accuracy"]["value"] == pytest.approx(0.5)
    assert row["accuracy"]["error"] == pytest.approx(math.sqrt(spread / 30))
    (split,) = tables["accuracy"]["seeds"]
    assert split["within"] == pytest.approx(0.5 * 10 / 30) and split["between"] == pytest.approx(spread - 0.5 / 6)


def test_clusters_of_the_data_are_used_and_counted(tmp_path: Path) -> None:
    Simulation(tmp_path, [GREEDY, Plan("direct")], 30, 0).write()
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    for at, question in enumerate(asked):
        question["cluster"] = f"pictures {at // 2}"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in asked))
    write(tmp_path)
    assert "30 questions in 15 clusters" in (tmp_path / "report.md").read_text()
    (pair,) = json.loads((tmp_path / "tables.json").read_text())["comparisons"]["pairs"]
    assert pair["difference"]["clusters"] == 15 and pair["difference"]["n"] == 30


def test_no_error_is_shown_where_none_is_known() -> None:
    assert percent(mean([0] * 60)) == "0.0 (0.0 to 6.0)"
    assert percent(mean([1] * 5)) == "100.0 (of 5 only)"
    assert share(auc([([1.0], [0.0])])[0]) == "1.000 (of 1 only)"
    assert "±" in percent(mean([0, 1] * 30))
