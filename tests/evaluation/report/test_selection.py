"""``structdecode select``: selectors at every number of samples, from the records of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from structdecode.core.errors import ConfigError
from structdecode.core.lookup import load_backend
from structdecode.data import load
from structdecode.evaluation import statistics
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.selection import Selection, write
from structdecode.records.store import read_run
from structdecode.selection.selectors import Best, LogOdds, Majority, Softmax
from tests.borders.commands import command, one_line
from tests.evaluation.pocket_study import compare, small_study

SELECTORS = {"best": Best(), "majority": Majority(), "softmax": Softmax(), "log-odds": LogOdds()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Best-of-6 with two verifiers, the greedy answer, and a search that is not of independent samples."""
    out = tmp_path_factory.mktemp("runs") / "selected"
    study = small_study(["best-of-n", "stage-beam", "staged"], ["log-prob", "p-true"], n=24, sweep=["n=2,6"])
    assert compare(study, out, load_backend(None), load("pocket:test", limit=24).questions) == 0
    return out


def test_at_the_full_size_a_curve_ends_where_the_run_is(run: Path) -> None:
    results = Results(read_run(run))
    selection = Selection(results, SELECTORS, (1, 2, 6))
    assert [cell.name for cell in selection.cells] == ["best-of-n/log-prob/n=6", "best-of-n/p-true/n=6"]
    found = {choice.name: choice for choice in selection.choices}
    for verifier in ("log-prob", "p-true"):
        cell = results.cells[f"best-of-n/{verifier}/n=6"]
        assert found[f"best/{verifier}/n=6"].by_id == cell.correct
        assert found[f"best/{verifier}/n=6"].accuracy.value == pytest.approx(cell.accuracy.value)
        blind = cell.random_pick.value
        assert (
            found[f"best/{verifier}/n=1"].accuracy.value
            == pytest.approx(blind)
            == pytest.approx(found["majority/-/n=1"].accuracy.value)
        )
    for choice in selection.choices:
        rights = [(len(r.pool), sum(c.correct for c in r.pool)) for r in choice.cell.records]
        covered = sum(statistics.pass_at(choice.n, n, right) for n, right in rights) / len(rights)
        assert 1 - choice.coverage_loss.value == pytest.approx(covered)
        assert (
            choice.selection_loss.value == pytest.approx(covered - choice.accuracy.value)
            and choice.selection_loss.value >= -1e-9
        )
    assert "majority/-/n=6" in found and not any(name.startswith("majority/p-true") for name in found), (
        "votes are told once"
    )
    assert [line.partition(":")[0] for line in selection.refused] == ["log-odds with log-prob"], (
        "p-true's scores are probabilities"
    )
    assert "log-odds/p-true/n=2" in found


def test_gains_are_paired_with_the_greedy_answer_and_corrected_together(run: Path) -> None:
    results = Results(read_run(run))
    selection = Selection(results, {"best": Best(), "majority": Majority()}, (2, 6))
    gains = selection.against_greedy
    assert len(gains) == len(selection.choices) == 6 and results.greedy is not None
    for choice in selection.choices:
        gap, _ = gains[choice.name]
        assert gap.family == 6 and gap.p_holm >= gap.p
        assert gap.difference.value == pytest.approx(choice.accuracy.value - results.greedy.accuracy.value)


def test_the_page_says_what_is_lost_where(run: Path) -> None:
    page = write(Selection(Results(read_run(run)), SELECTORS, (2, 6)))
    text = (run / "selection.md").read_text()
    assert "coverage loss" in text and "selection loss" in text and "The greedy answer is right on" in text
    assert (
        "log-odds with log-prob: log-odds needs scores that are probabilities" in text and "no gain over voting" in text
    )
    rows = json.loads((run / "selection.json").read_text())
    assert len(rows["selection"]) == 2 * (3 + 3) and {row["verifier"] for row in rows["verifiers"]} == {
        "log-prob",
        "p-true",
    }
    assert all(math.isfinite(row["accuracy"]["value"]) for row in rows["selection"])
    assert "<table" in page.read_text() and (run / "figures" / "selection.svg").exists()


def test_the_command(run: Path) -> None:
    done = command("select", run, "--n", "2,6", "--selector", "majority", "--selector", "{softmax: {temperature: 0.1}}")
    assert done.code == 0 and "| majority | - | 6 |" in done.out and "selection.html" in done.out
    for options, words in (
        (["--n", "2,7"], "has 6 independent samples a question, fewer than 7"), (["--n", "two"], "--n takes different numbers"),
        (["--n", "0"], "--n takes"), (["--selector", "majorty"], "did you mean 'majority'"), (["--selector", "{softmax: {temperature: 0}}"], "temperature must be at least"),
    ):  # fmt: skip
        assert words in one_line("select", run, *options)
    assert "not a run directory" in one_line("select", run.parent)


def test_a_run_without_independent_samples(tmp_path: Path) -> None:
    study = small_study(["stage-beam"], ["log-prob"], n=4)
    assert compare(study, tmp_path / "out", load_backend(None), load("pocket:test", limit=4).questions) == 0
    with pytest.raises(ConfigError, match="has no independent samples"):
        assert Selection(Results(read_run(tmp_path / "out")), SELECTORS, (2,)).choices


def test_two_settings_of_a_verifier_are_two(tmp_path: Path) -> None:
    cells = [
        {"strategy": "best-of-n", "name": name, "settings": {"n": 3}, "verifiers": [{"log-prob": {"scope": scope}}]}
        for name, scope in (("whole", "answer"), ("last", "stage"))
    ]
    (tmp_path / "study.yaml").write_text(json.dumps({"data": {"source": "pocket:test", "limit": 4}, "cells": cells}))
    done = command("compare", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run"), "--quiet")
    assert done.code == 0, done.err
    selection = Selection(Results(read_run(tmp_path / "run")), {"best": Best()}, (3,))
    assert [choice.verifier for choice in selection.choices] == ["log-prob (whole)", "log-prob (last)"]
