"""Runs in parts: disjoint by the question's id, merged with a check, or by several processes in one directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import lines
from structdecode.core.lookup import load_backend
from structdecode.core.protocols import Backend
from structdecode.data import load
from structdecode.evaluation.shards import Process, Shard, merge, problems, shard_of
from structdecode.records.store import read_run
from tests.evaluation.pocket_study import SAMPLED, assert_same, compare, run, small_study


@pytest.fixture(scope="module")
def backend() -> Backend:
    return load_backend(None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Path:
    """``whole``, and the same study as ``first`` and ``second`` shard."""
    place = tmp_path_factory.mktemp("runs")
    study = small_study(["direct", "best-of-n"], n=8, settings=SAMPLED, sweep=["n=2"])
    compare(study, place / "whole", backend)
    for at, name in enumerate(("first", "second")):
        compare(study, place / name, backend, shard=Shard(at, 2))
    return place


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def test_shards_are_disjoint_and_complete_and_stay_so() -> None:
    questions = load("pocket:test", limit=200).questions
    parts = [{q.id for q in questions if Shard(at, 4).has(q)} for at in range(4)]
    assert sum(map(len, parts)) == 200 == len(set.union(*parts)) and min(map(len, parts)) > 30
    assert [shard_of(name, 4) for name in ("a", "b", "c", "d")] == [3, 1, 3, 3], "the same on every machine, for good"
    nested = [{q.id for q in questions if Shard(1, 2).split(at, 2).has(q)} for at in range(2)]
    assert nested[0] | nested[1] == {q.id for q in questions if Shard(1, 2).has(q)} and not nested[0] & nested[1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_wrong_shard(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--shard takes i/n"):
        Shard.parse(text)


def test_a_process_of_accelerate() -> None:
    assert Process.of_environment({}) == Process()
    assert Process.of_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Process(5, 8, 1)
    for environment in ({"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}):
        with pytest.raises(ConfigError, match="RANK"):
            Process.of_environment(environment)


def test_merged_shards_are_the_whole_run(runs: Path, tmp_path: Path) -> None:
    shards = [runs / "first", runs / "second"]
    assert all(0 < len(read_run(shard).records) < 16 for shard in shards)
    assert problems(shards) == []
    assert merge(shards, tmp_path / "merged") == 16
    assert_same(runs / "whole", tmp_path / "merged")
    merged = read_run(tmp_path / "merged")
    assert merged.study["merged_from"] == [str(shard) for shard in shards]
    assert all(merged.trace(record.key) is not None for record in merged.records)
    assert sorted(p.name for p in (tmp_path / "merged").iterdir()) == [
        "pictures", "questions.jsonl", "records.jsonl", "rejected.jsonl", "sessions.jsonl", "study.json",
        "traces.jsonl",
    ]  # fmt: skip
    assert len(list((tmp_path / "merged/pictures").iterdir())) == 8
    with pytest.raises(ConfigError, match="is there already"):
        merge(shards, tmp_path / "merged")


def test_overlap_and_gap_are_a_line_each_and_exit_1(copies: Path) -> None:
    first, second, whole = copies / "first", copies / "second", copies / "whole"
    count = len(read_run(first).records)
    done = run("merge", first, whole, "--out", copies / "out", code=1)
    assert done.stderr.count("\n") == 1 and f"overlap: {count} records are in {first} and {whole}" in done.stderr
    done = run("merge", first, "--out", copies / "out", code=1)
    missing = 8 - count // 2
    assert f"gap: cell 'direct' lacks {missing} of 8 questions" in done.stderr and done.stderr.count("\n") == 2
    path = second / "records-2-of-2.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    assert len(problems([first, second])) == 1
    assert not (copies / "out").exists()


def test_runs_of_different_studies_do_not_merge(runs: Path, tmp_path: Path, backend: Backend) -> None:
    other = tmp_path / "other"
    compare(small_study(["direct", "best-of-n"], n=8, settings=SAMPLED, sweep=["n=2"], seeds=[1]), other, backend)
    (line,) = problems([runs / "first", other])
    assert "runs of different studies: seed of cell 'direct'" in line
    copy = tmp_path / "copy"
    shutil.copytree(runs / "second", copy)
    study = json.loads((copy / "study.json").read_text())
    study["config"]["model"]["digest"] = "0" * 32
    (copy / "study.json").write_text(json.dumps(study))
    assert "model digest (pocket)" in problems([runs / "first", copy])[0]
    with pytest.raises(ConfigError, match="not a run directory"):
        problems([runs])


def test_shards_may_share_a_directory(runs: Path, tmp_path: Path, backend: Backend) -> None:
    study = small_study(["direct", "best-of-n"], n=8, settings=SAMPLED, sweep=["n=2"])
    for at in (1, 0):
        compare(study, tmp_path, backend, shard=Shard(at, 2))
    assert_same(runs / "whole", tmp_path)
    compare(study, tmp_path, backend)
    assert list(lines(tmp_path / "records.jsonl")) == [], "nothing was left to do"


def test_two_processes_of_accelerate_make_one_run(tmp_path: Path) -> None:
    """``--multi_gpu`` starts a process for each; where there is no GPU they run on the CPU."""
    study = ["--data", "pocket:test", "--limit", "8", "--strategy", "direct", "--strategy", "staged"]
    run("compare", *study, "--out", tmp_path / "whole")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    command = [*launch, "-m", "structdecode", "compare", *study, "--out", str(tmp_path / "both")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "both")
    written = [len(list(lines(tmp_path / f"both/records-{at}-of-2.jsonl"))) for at in (1, 2)]
    assert sum(written) == 16 and min(written) > 0
    assert len({line["pid"] for line in lines(tmp_path / "both/sessions.jsonl")}) == 2
