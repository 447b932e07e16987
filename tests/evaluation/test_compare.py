"""``structdecode compare`` as a user runs it: processes of their own, the shipped model, the real matcher."""

from __future__ import annotations

import io
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from structdecode.core.jsonl import lines
from structdecode.core.progress import clock
from structdecode.evaluation.progress import LiveCells
from structdecode.records.store import read_run
from tests import processes
from tests.evaluation.pocket_study import assert_same, run, tables
from tests.evaluation.test_costs import record

STUDY = ["--data", "pocket:test", "--limit", 8, "--strategy", "staged", "--strategy", "stage-beam", "--verifier"]
STUDY += ["p-true", "--sweep", "n=2", "--set", "temperature=1", "--set", "max_tokens=120"]
FIRST = ["--data", "pocket:test", "--limit", 4, "--strategy", "direct"]


def test_one_thread_and_two_and_two_batch_sizes_give_the_same(tmp_path: Path) -> None:
    done = run("compare", *STUDY, "--out", tmp_path / "one")
    assert "16 of 16 done" in done.stderr and done.stdout.count("\n") <= 1
    patient = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    run("compare", *STUDY, "--out", tmp_path / "two", "--concurrency", "5", **patient)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    sessions = [next(lines(tmp_path / name / "sessions.jsonl")) for name in ("one", "two")]
    assert [session["machine"]["threads"] for session in sessions] == [1, 2]
    command = read_run(tmp_path / "one").study["command"]
    assert command == ["structdecode", "compare", *map(str, STUDY), "--out", str(tmp_path / "one")], "no machine's path"


def test_a_file_and_options_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("data: {source: 'pocket:test', limit: 40}\ncells: [{strategy: direct}]")
    run("compare", tmp_path / "study.yaml", "--limit", 4, "--out", tmp_path / "run", "--quiet")
    done = run("compare", *FIRST, "--out", tmp_path / "run")
    assert "4 of 4 done (0 now" in done.stderr
    assert len(read_run(tmp_path / "run").records) == 4


def test_quiet_says_nothing(tmp_path: Path) -> None:
    done = run("compare", *FIRST, "--out", tmp_path / "run", "--quiet")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the questions with --data"),
        (["--data", "pocket:test"], "name at least one --strategy"),
        (["--data", "pocket:tset", "--strategy", "direct"], "did you mean 'test'"),
        (["--data", "none.jsonl", "--strategy", "direct"], "none.jsonl"),
        (["--data", "pocket:test", "--strategy", "dirct"], "did you mean 'direct'"),
        (["--data", "pocket:test", "--strategy", "direct", "--shard", "3/2"], "--shard takes i/n"),
        (["--data", "pocket:test", "--strategy", "direct", "--column", "x"], "--column takes field=name"),
        (["--data", "pocket:test", "--strategy", "direct", "--limit", "0"], "limit must be at least 1"),
        (
            ["--data", "pocket:test", "--strategy", "direct", "--concurrency", "0"],
            "concurrency must be a whole number from 1",
        ),
        (["--data", "pocket:test", "--strategy", "direct", "--model", "./no-such"], "no such directory"),
        (["none.yaml"], "none.yaml: No such file"),
        (["examples/study/first.yaml", "--strategy", "direct"], "--strategy is said by the study file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("compare", *arguments, "--out", tmp_path / "run", code=2)
    assert message in done.stderr and done.stderr.startswith("structdecode: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run/records.jsonl").exists()


def test_another_study_in_the_same_folder_exits_2(tmp_path: Path) -> None:
    run("compare", *FIRST, "--out", tmp_path / "run", "--quiet")
    done = run("compare", *FIRST, "--seed", 1, "--out", tmp_path / "run", code=2)
    assert "holds a run of another study (seed of cell 'direct')" in done.stderr and done.stderr.count("\n") == 1


def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    long = ["--limit", 300, "--concurrency", 4]  # more than can be done before the signal comes
    process = processes.start("compare", *STUDY, *long, "--out", tmp_path / "run")
    path = tmp_path / "run/records.jsonl"
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to resume" in said and "Traceback" not in said
    assert 0 < len(read_run(tmp_path / "run").records) < 600


def test_help_has_examples() -> None:
    for command in ("compare", "merge", "report"):
        assert "Example" in run(command, "--help").stdout
    assert "not a run directory" in run("report", "nowhere", code=2).stderr


def test_plain_lines_say_how_far_it_is() -> None:
    place = io.StringIO()
    with LiveCells(["a", "b"], 2, console=Console(file=place)) as progress:
        progress.add(record("a", 100, True), now=False)
        assert progress.pace == ""
        progress.add(record("b", 100, True))
        progress.begun -= 10
        progress.add(record("b", 100, False))
    (line,) = place.getvalue().splitlines()
    assert line.startswith("compare: 3/4 done, 20 tokens/s, 0:05 left")
    assert "%" not in line and "so far" not in line  # three questions are no ground for a share
    assert progress.tallies["b"].accuracy == "1 of 2 right"
    assert (clock(3723), clock(59.6)) == ("1:02:03", "1:00")


def test_a_share_is_shown_from_ten_questions_on_with_its_interval() -> None:
    place = io.StringIO()
    with LiveCells(["a", "b", "judged"], 10, console=Console(file=place)) as progress:
        for at in range(10):
            progress.add(record("a", 100, True))
            progress.add(record("b", 100, at % 2 == 0), now=at < 9)
            progress.add(replace(record("judged", 100, True), failures=("p-true: ValueError: no",)))
            if at == 8:
                progress._say()
    nine, ten = place.getvalue().splitlines()
    assert "27/30 done" in nine and "so far: a" not in nine and "%" not in nine
    assert "highest so far: a 100.0 % (72 to 100)" in ten  # not the one whose verifier never worked
    assert "judged: its verifier failed on all 10 questions so far" in ten
    assert progress.tallies["b"].accuracy == "50.0 % (24 to 76)"


def test_a_terminal_has_a_bar_for_each_cell() -> None:
    place = io.StringIO()
    console = Console(file=place, force_terminal=True, width=120)
    with LiveCells(["stage-beam/n=2", "direct"], 1, console=console) as progress:
        progress.add(record("direct", 100, True))
    shown = place.getvalue()
    assert "stage-beam/n=2" in shown and "1/1" in shown and "1 of 1 right" in shown and "tokens/s" in shown


def test_the_run_can_be_reported_again(tmp_path: Path) -> None:
    run("compare", "examples/study/first.yaml", "--limit", 6, "--out", tmp_path / "run", "--quiet")
    names = ("report.md", "report.html", "tables.json")
    before = {name: (tmp_path / "run" / name).read_text() for name in names}
    for name in names:
        (tmp_path / "run" / name).unlink()
    assert "report.html" in run("report", tmp_path / "run").stdout
    assert (tmp_path / "run/report.md").read_text() == before["report.md"]
    assert json.loads((tmp_path / "run/tables.json").read_text()) == json.loads(before["tables.json"])
