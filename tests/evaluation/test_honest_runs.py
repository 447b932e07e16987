"""What a user is told of a run that proves less than it seems to: shared pictures, verifiers that fail, empty answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.jsonl import lines
from structdecode.core.types import Candidate, Prompt, Stage
from structdecode.evaluation.cells import CellTemplate
from structdecode.evaluation.commands import run_study
from structdecode.evaluation.isolation import isolated
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.study import DataSource, Study
from structdecode.matching.types import Question
from structdecode.records.store import read_run
from structdecode.strategies.best_of_n import BestOfN
from tests.evaluation.pocket_study import match, run


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Six questions, each about a picture of its own, from three documents; the last row lacks its document."""
    rows = []
    for at in range(6):
        Image.new("RGB", (32, 32), (40 * at, 0, 0)).save(tmp_path / f"{at}.png")
        document = "" if at == 5 else f"doc {at // 2}"
        rows.append({"id": f"q{at}", "image": f"{at}.png", "question": "Red?", "answer": "yes", "document": document})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data.jsonl"


def test_cluster_by_a_column_of_the_data(documents: Path, tmp_path: Path) -> None:
    asked = ["compare", "--data", documents, "--strategy", "direct", "--strategy", "staged", "--set", "max_tokens=8"]
    run(*asked, "--out", tmp_path / "pictures", "--quiet")
    run(*asked, "--cluster-by", "document", "--out", tmp_path / "documents", "--quiet")
    assert "6 questions in 6 clusters (by the picture" in (tmp_path / "pictures/report.md").read_text()
    assert "5 questions in 3 clusters (by the column 'document')" in (tmp_path / "documents/report.md").read_text()
    (pair,) = json.loads((tmp_path / "documents/tables.json").read_text())["comparisons"]["pairs"]
    assert pair["difference"]["clusters"] == 3 and pair["n"] == 5
    (left_out,) = read_run(tmp_path / "documents").rejected
    assert left_out.problem == "missing-field" and "'document'" in left_out.message
    kept = {line["id"]: line["cluster"] for line in lines(tmp_path / "documents/questions.jsonl")}
    assert kept["q0"] == kept["q1"] != kept["q2"]


def test_a_column_that_is_not_there_is_a_mistake_in_one_line(documents: Path, tmp_path: Path) -> None:
    asked = ["compare", "--data", documents, "--strategy", "direct", "--out", tmp_path / "run"]
    said = run(*asked, "--cluster-by", "dokument", code=2).stderr
    assert "no column 'dokument' to cluster by: give one of answer, document, id" in said and said.count("\n") == 1
    assert not (tmp_path / "run/records.jsonl").exists()


def test_a_column_that_was_not_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("question,answer,tolerance\nRed?,yes,tight\nBlue?,no,0.05\nGreen?,no,loose\n")
    asked = ["compare", "--data", tmp_path / "own.csv", "--strategy", "direct", "--set", "max_tokens=8", "--quiet"]
    said = run(*asked, "--out", tmp_path / "run").stderr
    assert said.startswith("compare: ") and "column 'tolerance' was not used in 2 rows" in said
    assert said.count("\n") == 1 and len(read_run(tmp_path / "run").records) == 3


def writing(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    return f"{seed % 3}{stage.end}"


def studied(out: Path, *verifiers: str, answers: Any = writing) -> int:
    templates = (
        CellTemplate("direct"),
        CellTemplate("best-of-n", verifiers=verifiers or ("log-prob",), sweep={"n": [2]}),
    )
    questions = [Question(f"q{at}", f"Question {at}?", ("1",)) for at in range(4)]
    return run_study(Study(DataSource("d"), templates), questions, (), ScriptedBackend(answers), match, out, quiet=True)


def test_a_verifier_that_raised_on_every_candidate_is_said_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @registry.verifier("never-works")
    def broken(candidate: Candidate) -> float:
        raise ValueError("no such head")

    @registry.verifier("works-now-and-then")
    def shaky(candidate: Candidate) -> float:
        if candidate.path[0] == 1:
            raise ValueError("not this one")
        return 1.0

    assert studied(tmp_path / "run", "never-works", "works-now-and-then") == 2
    said = capsys.readouterr().err
    assert said == (
        "compare: best-of-n/never-works/n=2: its verifier never worked (first error: never-works: ValueError: no such "
        "head); its figures are those of an arbitrary choice\n"
        "compare: best-of-n/works-now-and-then/n=2: its verifier works-now-and-then gave no score to 6 of 8 candidates "
        "(first error: works-now-and-then: ValueError: not this one); it is no evidence for that verifier\n"
    )
    head = (tmp_path / "run/report.md").read_text().split("## ")[0].replace("\\", "")
    assert "No evidence: best-of-n/never-works/n=2: its verifier never worked" in head
    results = Results(read_run(tmp_path / "run"))
    assert set(results.sound) == {"direct"}
    assert studied(tmp_path / "run", "never-works", "works-now-and-then") == 2, "resumed, with nothing left to do"
    for command, code in ((("report", tmp_path / "run"), 0), (("merge", tmp_path / "run", "--out", tmp_path / "m"), 1)):
        assert "never-works: ValueError: no such head" in run(*command, code=code).stderr


def test_what_is_no_verifier_at_all_never_worked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare object without a method ``score``, as a plug-in's mistake or a notebook's may hand it over."""

    class Bare:
        pass

    @registry.strategy("with-a-bare-verifier")
    class WithBare(BestOfN):
        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "verifier", Bare())

    questions = [Question("q", "?", ("1",))]
    study = Study(DataSource("d"), (CellTemplate("direct"), CellTemplate("with-a-bare-verifier")))
    assert run_study(study, questions, (), ScriptedBackend(writing), match, tmp_path / "run", quiet=True) == 1
    said = capsys.readouterr().err
    assert "with-a-bare-verifier: its verifier never worked (first error: " in said
    assert "AttributeError: 'Bare' object has no attribute 'score'" in said
    assert "with-a-bare-verifier" not in {cell.name for cell in Results(read_run(tmp_path / "run")).pareto("tokens")}


def test_empty_answers_have_a_column_and_a_word(tmp_path: Path) -> None:
    def silent(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return stage.end if "Question 3" not in prompt.question else f"1{stage.end}"

    assert studied(tmp_path / "run", answers=silent) == 0
    rows = json.loads((tmp_path / "run/tables.json").read_text())["accuracy"]["cells"]
    assert [row["empty"] for row in rows] == [3, 3]
    page = (tmp_path / "run/report.md").read_text()
    assert "3 of its 4 answers are empty" in page.split("## ")[0] and "| empty |" in page


def test_a_view_that_was_taken_before_the_first_work_follows_the_model() -> None:
    """A comparison takes its views before anything ran; they have the twin's parts, and their caches are let go of."""
    torch = pytest.importorskip("torch")
    from structdecode.backends.transformers import TransformersBackend
    from structdecode.core.engine import decode
    from structdecode.strategies.staged import Staged
    from tests.backends.transformers import tiny

    model, processor = tiny.build("mllama")
    backend = TransformersBackend(model, processor)
    view: Any = isolated(backend)
    prompt = Prompt("What is it?", (Image.new("RGB", (32, 32)),))
    before = decode(prompt, backend=view, strategy=Staged(max_tokens=4), seed=1).best
    assert view.running_tower is backend.running_tower is not None and view.packed_layers == backend.packed_layers
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.3)
    after = decode(prompt, backend=view, strategy=Staged(max_tokens=4), seed=1).best
    fresh = decode(prompt, backend=TransformersBackend(model, processor), strategy=Staged(max_tokens=4), seed=1).best
    assert before is not None and after is not None and fresh is not None
    assert after == fresh and view.prefixes.hits == 0
