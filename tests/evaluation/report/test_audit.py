"""``structdecode verifier``: fitted and audited on recorded runs of the embedded model, and of a model that does as it is told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.calibration import Calibration
from structdecode.core.lookup import load_backend
from structdecode.core.types import Candidate, Prompt, Schema, Score, Stage
from structdecode.evaluation.cells import CellTemplate
from structdecode.evaluation.commands import run_study
from structdecode.evaluation.labelled import LabelledScores, labelled_scores
from structdecode.evaluation.report.audit import Audit, write
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.study import DataSource, Study
from structdecode.matching.types import Question
from structdecode.records.store import read_run
from tests.borders.commands import command, one_line
from tests.evaluation.pocket_study import compare, match

PTRUE, REWARD = "best-of-n/p-true/n=6", "best-of-n/reward-model/n=6"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Best-of-6 of the embedded model with two verifiers and two seeds, on validation questions."""
    out = tmp_path_factory.mktemp("runs") / "labelled"
    reward = {"reward-model": {"path": "pocket-verifier"}}
    cells = (
        CellTemplate("best-of-n", verifiers=("p-true", reward), sweep={"n": [2, 6]}),
        CellTemplate("stage-beam", verifiers=("p-true",), settings={"candidates": 3}),
    )
    study = Study(DataSource("pocket:validation", limit=24), cells, seeds=(0, 1))
    assert compare(study, out, load_backend(None)) == 0
    return out


@pytest.fixture(scope="module")
def fitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fits") / "p-true.json"
    done = command("verifier", "fit", run, "--verifier", "p-true", "--out", out)
    assert done.code == 0 and "| all | calibrated |" in done.out and f"Wrote {out}" in done.out, done
    return out


def scores_in(run: Path, cell: str) -> LabelledScores:
    return next(found for found in labelled_scores(Results(read_run(run))) if found.cell.name == cell)


def test_probabilities_of_answers_to_new_questions_are_better_than_the_scores(fitted: Path, tmp_path: Path) -> None:
    """Fitted on one set of questions, used by a search on another; nothing else about the search changes."""
    calibrated = {"calibrated": {"verifier": "p-true", "fit": str(fitted)}}
    cells = (CellTemplate("best-of-n", verifiers=("p-true", calibrated), sweep={"n": [6]}),)
    assert compare(Study(DataSource("pocket:test", limit=40), cells), tmp_path / "new", load_backend(None)) == 0
    found = scores_in(tmp_path / "new", "best-of-n/calibrated(verifier=p-true)/n=6")
    answers = found.finished
    right = np.array([answer.right for answer in answers])
    said = {
        "raw": np.array([answer.details["raw"] for answer in answers]),
        "calibrated": np.array([answer.score for answer in answers]),
    }
    brier = {kind: float(((values - right) ** 2).mean()) for kind, values in said.items()}
    assert found.verifier == "calibrated(verifier=p-true)" and len(answers) == 240
    assert brier["calibrated"] < brier["raw"] - 0.03
    results = Results(read_run(tmp_path / "new"))
    by_raw = results.cells["best-of-n/p-true/n=6"].records
    assert [(r.id, r.answer) for r in by_raw] == [(r.id, r.answer) for r in found.cell.records], "the order is the same"


def test_a_fit_says_what_it_was_made_of(fitted: Path, run: Path) -> None:
    found = Calibration.load(fitted)
    assert (found.verifier.name, found.verifier.settings["class"]) == ("p-true", "PTrue")
    of = found.fitted_on
    assert (of["cell"], of["seeds"], of["data"]["questions"], of["run"]) == (PTRUE, [0, 1], 24, "labelled")
    assert len(of["model"]["digest"]) == 32 and "engine" in of["code"] and of["versions"]["scikit-learn"]
    answers = [c.score for c in scores_in(run, PTRUE).finished if c.score is not None]
    spread = found.scores["CONCLUSION"]
    assert spread.n == len(answers) == 24 * 2 * 6 and spread.mean == pytest.approx(np.mean(answers))
    assert spread.sigma == pytest.approx(np.std(answers, ddof=1))
    measured = found.measured["*"]
    assert measured.raw is not None and measured.calibrated.brier < measured.raw.brier and measured.questions == 24


def test_stages_that_a_verifier_tells_of_have_maps_of_their_own(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reward.json"
    done = command(
        "verifier", "fit", run, "--verifier", "reward-model", "--by-stage", "--method", "platt", "--out", out
    )
    assert done.code == 0, done
    found = Calibration.load(out)
    assert list(found.maps) == list(found.scores) == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
    assert found.maps["REASONING"].slope > 0 and not found.maps["REASONING"].knots
    by_stage = command("verifier", "fit", run, "--verifier", "p-true", "--by-stage", "--out", out)
    assert by_stage.code == 0 and Calibration.load(out).fitted_on["cell"] == "stage-beam/p-true", "it scores stages"


def test_an_audit_is_of_the_runs_own_figures(run: Path, tmp_path: Path) -> None:
    done = command("verifier", "audit", run, "--out", tmp_path / "audit")
    assert done.code == 0 and done.out.count("INCONCLUSIVE against") >= 4, done
    assert "AUC within a question" in done.out and "how many would settle it" in done.out
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    results = Results(read_run(run))
    assert found["format"] == "structdecode-verifier-audit/1" and len(found["verdicts"]) == 3
    gains = {(row["cell"], row["other"]): row for row in found["gains"]["gains"]}
    for cell in (PTRUE, REWARD):
        of_cell = results.cells[cell]
        assert gains[cell, "a random pick"]["accuracy"]["value"] == pytest.approx(of_cell.accuracy.value)
        assert gains[cell, "a random pick"]["theirs"]["value"] == pytest.approx(of_cell.random_pick.value)
    assert gains[PTRUE, "majority voting"]["theirs"] == gains[REWARD, "majority voting"]["theirs"], (
        "the same samples, whoever scores them"
    )
    aucs = {(row["cell"], row["stage"]): row for row in found["stages"]["auc"]}
    assert [stage for cell, stage in aucs if cell == REWARD] == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
    assert aucs[REWARD, "CAPTION"]["inferred"] and not aucs[REWARD, "CONCLUSION"]["inferred"]
    assert aucs["stage-beam/p-true", "CAPTION"]["unlabelled"] == 24 * 2 * 2, "two of three were dropped each time"
    lengths = {row["cell"]: row for row in found["lengths"]["lengths"]}
    assert lengths[PTRUE]["answers"] == 24 * 2 * 6 and lengths[PTRUE]["right"] == lengths[REWARD]["right"]
    costs = {row["cell"]: row for row in found["cost"]["cost"]}
    assert costs[PTRUE]["tokens"] == pytest.approx(results.cells[PTRUE].cost("tokens", "verifier").value)
    assert 0 < costs[PTRUE]["seconds"] < 60
    assert {row["seeds"] for row in found["variance"]["variance"]} == {2}
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert (
        "<svg" in page
        and "raw scores" in page
        and "//" not in page.split("<script>")[0].replace("http://www.w3.org", "")
    )


def test_one_verifier_alone(run: Path, tmp_path: Path) -> None:
    assert command("verifier", "audit", run, "--out", tmp_path, "--verifier", "reward-model").code == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert {row["cell"] for row in found["gains"]["gains"]} == {REWARD}


def test_what_cannot_be_meant(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit.json"
    fit = ("verifier", "fit", run, "--out", out, "--verifier")
    for options, words in (
        (["log-prob"], "has no scores of 'log-prob'; it has those of p-true, reward-model"),
        (
            ["p-true", "--cell", "best-of-n"],
            "no cell 'best-of-n' with scores of 'p-true'; there are best-of-n/p-true/n=6",
        ),
        (["p-true", "--cell", PTRUE, "--by-stage"], "has scores of CONCLUSION alone: leave --by-stage out"),
    ):
        assert words in one_line(*fit, *options)
    assert "not a run directory" in one_line("verifier", "fit", run.parent, "--verifier", "p-true", "--out", out)
    assert "no such directory" in one_line(
        "verifier", "fit", run, "--verifier", "p-true", "--out", tmp_path / "none" / "fit.json"
    )
    (tmp_path / "file").write_text("")
    assert "is a file" in one_line("verifier", "audit", run, "--out", tmp_path / "file")
    assert "did you mean 'p-true'" in one_line("verifier", "audit", run, "--out", tmp_path / "a", "--verifier", "ptrue")
    assert not out.exists() and not (tmp_path / "a").exists()
    for subcommand in ("fit", "audit"):
        done = command("verifier", subcommand, "--help")
        assert done.code == 0 and "structdecode verifier" in done.out


def test_what_is_not_installed_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for words in (
        ("fit", run, "--verifier", "p-true", "--out", tmp_path / "fit.json"),
        ("audit", run, "--out", tmp_path),
    ):
        assert "'scikit-learn' is needed here: pip install 'structdecode[eval]'" in one_line("verifier", *words)


# ------------------------------------------------------------------ a model that does as it is told

SCHEMA = Schema("two", (Stage.tagged("PLAN", visible=False), Stage.tagged("ANSWER")))


def writing(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    """Plans good or bad; an answer is right (1) where its plan is good, and a bad plan is longer."""
    if stage.name == "PLAN":
        return ("bad and much longer than a good one" if seed % 3 else "good") + stage.end
    return ("1" if prefix.stages["PLAN"] == "good" else "2") + stage.end


@sd.verifier("knows-the-plan")
class KnowsThePlan:
    """Right about plans but for every seventh question, which it cannot read; says all that an audit looks for."""

    async def score(self, prompt: Prompt, candidates: list[Candidate], model: Any) -> list[Score]:
        if prompt.question.endswith("7?"):
            return [Score.unscored("no score in 'Hmm.'") for _ in candidates]
        return [
            Score(
                float(candidate.stages["PLAN"] == "good"),
                details={
                    "label_mass": 0.5, "rubric": {"label_mass": 0.7}, "swap_consistency": 0.75, "unparseable": 1,
                    "PLAN": float(candidate.stages["PLAN"] == "good"), "said": "words are left out",
                },
                resolution=0.0,
            )
            for candidate in candidates
        ]  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Trees and independent answers of 40 questions in 20 clusters."""
    registry.register("schemas", "plan-and-answer")(SCHEMA)
    questions = [Question(f"q{at}", f"Question {at}?", ("1",), cluster=f"c{at // 2}") for at in range(40)]
    cells = tuple(
        CellTemplate(strategy, verifiers=("knows-the-plan",), settings=settings, schema="plan-and-answer")
        for strategy, settings in (("exhaustive", {"candidates": 3}), ("best-of-n", {"n": 6}))
    )
    out, backend = tmp_path_factory.mktemp("told") / "run", ScriptedBackend(writing)
    study = Study(DataSource("d"), cells)
    assert run_study(study, questions, (), backend, match, out, report=False, quiet=True) == 2
    return Results(read_run(out))


def test_a_stage_counts_by_the_answers_below_it(told: Results) -> None:
    (tree, _) = labelled_scores(told)
    plans, answers = tree.by_stage["PLAN"], tree.by_stage["ANSWER"]
    assert len(plans) == 36 * 3 and len(answers) == 40 * 9 and len(plans[0].path) == 1
    assert all(plan.inferred and plan.right == plan.score for plan in plans), "a good plan has right answers alone"
    events = [event for record in tree.cell.records for event in (told.run.trace(record.key) or {})["events"]]
    written = {tuple(e["path"]): e["tokens"] for e in events if e["kind"] == "candidate"}
    assert answers[0].tokens is not None and set(written) >= {answers[0].path}
    unread = [answer for answer in answers if answer.score is None]
    assert len(unread) == 4 * 9 and {answer.reason for answer in unread} == {"no score in 'Hmm.'"}


def test_what_a_verifier_says_of_itself_is_shown(told: Results, tmp_path: Path) -> None:
    audit = Audit(told)
    page = write(audit, tmp_path).read_text()
    found = json.loads((tmp_path / "audit.json").read_text())
    for row in found["failures"]["failures"]:
        assert row["unscored"] == pytest.approx(0.1) and row["why"] == "no score in 'Hmm.'"
        assert row["unparseable"] == 1.0 and row["swap"] == pytest.approx(0.75) and row["mass"] == pytest.approx(0.6)
    plan, answer, *_ = found["stages"]["auc"]
    assert plan["auc"]["value"] == answer["auc"]["value"] == 1.0 and plan["auc"]["clusters"] <= 20
    assert answer["ties"] == 0.0 and "no score in &#39;Hmm.&#39;" in page
    lengths = found["lengths"]["lengths"][0]
    assert lengths["score"]["value"] == pytest.approx(lengths["right"]["value"]) and lengths["score"]["high"] < -0.9
    verdict = next(one for one in found["verdicts"] if "best-of-n" in one)
    assert "better than a random pick" in verdict and "better than majority voting" in verdict
    assert "AUC within a question 1.000, at least 0.60" in verdict
    assert "No evidence: its verifier knows-the-plan gave no score to 24 of 240 candidates" in verdict
    assert "variance" not in found, "one seed"


def test_a_run_without_traces_is_audited_without_lengths(told: Results, tmp_path: Path) -> None:
    bare = tmp_path / "run"
    shutil.copytree(told.run.directory, bare)
    (bare / "traces.jsonl").unlink()
    write(Audit(Results(read_run(bare))), tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert "lengths" not in found["lengths"] and [row["stage"] for row in found["stages"]["auc"]] == [
        "ANSWER",
        "ANSWER",
    ]
    assert found["failures"]["failures"][0]["why"] == "no score in 'Hmm.'", "records have it, too"


def test_all_right_is_nothing_to_fit(told: Results, tmp_path: Path) -> None:
    lines = (told.run.directory / "records.jsonl").read_text().splitlines()
    run = tmp_path / "run"
    shutil.copytree(told.run.directory, run)
    records = [json.loads(line) for line in lines]
    for record in records:
        for answer in record["pool"]:
            answer["correct"] = True
    (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    said = one_line("verifier", "fit", run, "--verifier", "knows-the-plan", "--out", tmp_path / "fit.json")
    assert "best-of-n/knows-the-plan: nothing to fit: all 216 candidates are right" in said
    assert command("verifier", "audit", run, "--out", tmp_path).code == 0
    assert "no question has a right and a wrong answer with scores" in (tmp_path / "audit.html").read_text()


def test_a_run_without_scores(tmp_path: Path) -> None:
    study = Study(DataSource("d"), (CellTemplate("direct"),))
    questions = [Question("q", "Question?", ("1",))]
    run_study(study, questions, (), ScriptedBackend(writing_one), match, tmp_path / "run", report=False, quiet=True)
    said = one_line("verifier", "audit", tmp_path / "run", "--out", tmp_path / "a")
    assert "no verifier scored anything in it" in said
    assert "it has those of no verifier" in one_line(
        "verifier", "fit", tmp_path / "run", "--verifier", "p-true", "--out", tmp_path / "fit.json"
    )


def writing_one(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    return f"1{stage.end}"
