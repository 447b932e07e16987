"""A comparison on the pocket model: what it keeps, that nothing but the question decides it, that a kill loses nothing."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from structdecode.core import registry
from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import Appender, lines
from structdecode.core.lookup import load_backend
from structdecode.core.protocols import Backend, Decoder
from structdecode.core.trace import Trace
from structdecode.core.types import Ranked, Schema, Score
from structdecode.core.view import render
from structdecode.data import load
from structdecode.evaluation.recording import WHOLE_ANSWER
from structdecode.matching.types import Question
from structdecode.records.store import read_run
from tests import processes
from tests.evaluation.pocket_study import SAMPLED, assert_same, compare, small_study, tables

SEARCHES = (["staged", "best-of-n", "stage-beam", "sentence-beam"], ["p-true"])


@pytest.fixture(scope="module")
def backend() -> Backend:
    return load_backend(None)


@pytest.fixture(scope="module")
def questions() -> Sequence[Question]:
    return load("pocket:test", limit=12).questions


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, backend: Backend, questions: Sequence[Question]) -> Path:
    """A run of four strategies, 12 questions, all in flight at once."""
    out = tmp_path_factory.mktemp("runs") / "searched"
    study = small_study(*SEARCHES, n=12, settings=SAMPLED, sweep=["n=3"])
    assert compare(study, out, backend, questions, concurrency=64) == 0
    return out


def test_a_record_says_all_that_a_report_needs(searched: Path) -> None:
    run = read_run(searched)
    assert len(run.cells) == 4 and len(run.records) == 4 * 12 and len({r.key for r in run.records}) == 48
    assert {name: len(records) for name, records in run.by_cell.items()} == dict.fromkeys(run.cells, 12)
    for record in run.records:
        question = run.questions[record.id]
        assert record.correct == (record.extracted in question["answers"]) and record.seed == 0
        assert record.usage["generator"]["images_encoded"] == 1, "each cell pays for its own picture"
        assert record.usage["generator"]["generated_tokens"] > 0 and record.seconds > 0
        assert record.flops["generator"] > 0 and (record.flops["verifier"] > 0) == (record.verifier == "p-true")
        assert set(record.wrong_stages) <= set(record.stages) and record.covered >= record.correct
        assert len(record.pool) == (1 if record.strategy == "staged" else 3)
        assert record.settings["temperature"] == "1.0"
    assert 0.5 < sum(record.correct for record in run.records) / 48 < 1


def test_rounds_say_which_stage_was_right(searched: Path) -> None:
    cells = read_run(searched).by_cell
    for record in cells["stage-beam/p-true/n=3"]:
        assert [r.stage for r in record.rounds] == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
        assert all(len(r.paths) == len(r.values) == len(r.right) == 3 for r in record.rounds)
        chosen = record.pool[0].path
        for one in record.rounds:
            right = dict(zip(one.paths, one.right, strict=True))[chosen[: len(one.paths[0])]]
            if one.stage == "CONCLUSION":
                assert right == record.correct
            else:
                assert right == (one.stage not in record.wrong_stages)
    for record in cells["best-of-n/p-true/n=3"]:
        (whole,) = record.rounds
        assert whole.stage == WHOLE_ANSWER
        assert dict(zip(whole.paths, whole.right, strict=True)) == {c.path: c.correct for c in record.pool}
    sentences = [r for record in cells["sentence-beam/p-true/n=3"] for r in record.rounds if r.stage == "CAPTION"]
    assert len(sentences) > 2 * 12 and {True, False} == {right for r in sentences for right in r.right}


def test_traces_and_pictures_are_there_for_the_report(searched: Path) -> None:
    run = read_run(searched)
    record = run.by_cell["stage-beam/p-true/n=3"][0]
    trace = run.trace(record.key)
    assert trace is not None and run.trace("nothing") is None
    (digest,) = trace["images"]
    assert run.picture(digest) is not None and run.picture("nothing") is None
    assert sum(event["kind"] == "candidate" for event in trace["events"]) == 12
    events = trace.pop("events")
    assert "Search tree" in render(Trace(trace, events))


def test_study_json_is_enough_to_repeat_the_run(searched: Path) -> None:
    study = read_run(searched).study
    config = study["config"]
    assert {"structdecode", "torch", "transformers", "python"} <= set(study["versions"]) and study["machine"]["cpus"]
    assert config["model"]["dtype"] == "float32" and len(config["model"]["digest"]) == 32
    assert config["data"]["source"] == "pocket:test" and config["data"]["limit"] == 12
    assert config["cells"][-1]["resolved"]["verifier"]["class"] == "PTrue" and config["seeds"] == [0]


def test_batch_size_and_order_do_not_matter(searched: Path, tmp_path: Path, questions: Sequence[Question]) -> None:
    """Threads: see test_compare, where each number of them has a process of its own."""
    study = small_study(*SEARCHES, n=12, settings=SAMPLED, sweep=["n=3"])
    shuffled = random.Random(7).sample(list(questions), 12)
    compare(study, tmp_path, load_backend(None), shuffled, concurrency=5)
    assert_same(searched, tmp_path)


def test_a_finished_run_does_nothing_again(tmp_path: Path, backend: Backend) -> None:
    study = small_study()
    compare(study, tmp_path, backend)
    before = (tmp_path / "records.jsonl").read_bytes(), (tmp_path / "traces.jsonl").read_bytes()
    compare(study, tmp_path, backend)
    assert before == ((tmp_path / "records.jsonl").read_bytes(), (tmp_path / "traces.jsonl").read_bytes())
    assert len(list(lines(tmp_path / "sessions.jsonl"))) == 2


@pytest.mark.parametrize("cut", [1, 40, 100_000])
def test_a_torn_line_is_cut_off_and_done_again(tmp_path: Path, backend: Backend, cut: int) -> None:
    study = small_study()
    compare(study, tmp_path / "whole", backend)
    compare(study, tmp_path / "torn", backend)
    path = tmp_path / "torn/records.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_run(tmp_path / "torn").records) == (7 if cut < 100_000 else 0)
    compare(study, tmp_path / "torn", backend)
    assert_same(tmp_path / "whole", tmp_path / "torn")
    assert len(path.read_bytes().splitlines()) == 8


def test_a_damaged_line_is_named(tmp_path: Path, backend: Backend) -> None:
    compare(small_study(), tmp_path, backend)
    path = tmp_path / "records.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(ConfigError, match=r"records\.jsonl:1: damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, r"data \(pocket:test, pocket:test; 4 and 3 questions\)"),
        ({"seeds": [1]}, "seed of cell 'direct'"),
        ({"settings": ["max_tokens=50"]}, "settings of cell 'direct'"),
        ({"budget": "tokens=50"}, "budget of cell 'direct'"),
        ({"strategies": ["direct"]}, "cell 'staged' is in one of them only"),
    ],
)
def test_another_study_is_refused_in_one_line(
    tmp_path: Path, backend: Backend, options: dict[str, object], message: str
) -> None:
    compare(small_study(), tmp_path, backend)
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=message) as caught:
        compare(small_study(**options), tmp_path, backend)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and before == (tmp_path / "records.jsonl").read_bytes()


def test_a_folder_of_something_else_is_refused(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ConfigError, match="not empty and not a run directory"):
        compare(small_study(), tmp_path, backend)
    with pytest.raises(ConfigError, match="is a file"):
        compare(small_study(), tmp_path / "thesis.tex", backend)


def test_killed_before_the_study_was_written(tmp_path: Path, backend: Backend) -> None:
    compare(small_study(), tmp_path / "whole", backend)
    (tmp_path / "early").mkdir()
    for name in ("questions.jsonl", ".study.json.123"):
        (tmp_path / "early" / name).write_text('{"id": "to')
    compare(small_study(), tmp_path / "early", backend)
    assert_same(tmp_path / "whole", tmp_path / "early")
    assert read_run(tmp_path / "early").questions.keys() == read_run(tmp_path / "whole").questions.keys()


def test_two_processes_cannot_write_one_run(tmp_path: Path, backend: Backend) -> None:
    compare(small_study(), tmp_path, backend)
    holder = Appender(tmp_path / "records.jsonl")
    with pytest.raises(ConfigError, match="another process is writing"):
        compare(small_study(), tmp_path, backend)
    holder.close()


def test_a_question_that_cannot_be_asked_is_a_record(
    tmp_path: Path, backend: Backend, questions: Sequence[Question]
) -> None:
    broken = replace(questions[0], images=(b"no picture",))
    compare(small_study(), tmp_path, backend, [broken, questions[1]])
    for records in read_run(tmp_path).by_cell.values():
        bad, good = sorted(records, key=lambda record: not record.error)
        assert bad.id == broken.id and "not an image" in bad.error and not bad.correct and bad.status == "empty"
        assert bad.usage["generator"]["generated_tokens"] == 0 and not good.error and good.answer


def test_a_second_row_of_an_id_is_rejected(tmp_path: Path, backend: Backend, questions: Sequence[Question]) -> None:
    other = replace(questions[1], id=questions[0].id, source="data.jsonl:7")
    compare(small_study(), tmp_path, backend, [questions[0], other])
    run = read_run(tmp_path)
    assert len(run.records) == 2 and str(run.rejected[0]).startswith("data.jsonl:7: id 'pocket-test-0-0' was there")


@dataclass(frozen=True)
class Flaky:
    """Fails on questions about squares until it is mended."""

    default_schema: ClassVar[str] = "direct"
    mended: ClassVar[bool] = False

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        if "square" in decoder.prompt.question and not Flaky.mended:
            raise RuntimeError("out of\nmemory")
        candidates = await decoder.extend([decoder.root], schema.stages[0])
        return [Ranked(candidates[0], Score.unscored("the only one"))]


def test_what_fails_on_our_side_is_no_result_and_is_tried_again(
    tmp_path: Path, backend: Backend, questions: Sequence[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    registry.register("strategies", "flaky")(Flaky)
    study = small_study(["flaky"])
    squares = sum("square" in question.text for question in questions)
    assert 0 < squares < 12 and compare(study, tmp_path, backend, questions) == squares
    assert "RuntimeError: out of memory" in capsys.readouterr().err
    assert len(read_run(tmp_path).records) == 12 - squares
    Flaky.mended = True
    assert compare(study, tmp_path, backend, questions) == 0
    assert len(read_run(tmp_path).records) == 12


def test_a_budget_holds_and_is_named(tmp_path: Path, backend: Backend) -> None:
    compare(small_study(["stage-beam"], ["self-judge"], budget="tokens=60", settings=SAMPLED), tmp_path, backend)
    for record in read_run(tmp_path).records:
        assert sum(part["generated_tokens"] for part in record.usage.values()) <= 60
        assert record.stopped_by == "tokens" and not record.valid


_STUDY = ["--data", "pocket:test", "--limit", "16", "--strategy", "direct", "--strategy", "staged", "--strategy"]
_STUDY += ["stage-beam", "--verifier", "p-true", "--sweep", "n=2", "--set", "temperature=1", "--set", "max_tokens=120"]


def test_killed_ten_times_it_equals_an_undisturbed_run(tmp_path: Path) -> None:
    """Each time by ``kill -9``, at a random moment after the run has got a little further (or while it starts)."""
    command = ["compare", *_STUDY, "--concurrency", "4", "--out"]
    assert processes.run(*command, tmp_path / "whole").returncode == 0
    out, rng, kills = tmp_path / "killed", random.Random(4), 0
    while kills < 10:
        records = _size(out)
        process = processes.start(*command, out)
        while process.poll() is None and _size(out) == records:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, f"done after {kills} kills: give it more to do"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    done = processes.run(*command, out)
    assert done.returncode == 0 and "48 of 48 done" in done.stderr
    assert_same(tmp_path / "whole", out)
    assert tables(out) == tables(tmp_path / "whole")
    keys = [line["key"] for line in lines(out / "records.jsonl")]
    assert len(keys) == len(set(keys)) == 48, "nothing was done twice"
    assert len(list(lines(out / "sessions.jsonl"))) == 11


def _size(out: Path) -> int:
    path = out / "records.jsonl"
    return path.stat().st_size if path.exists() else 0
