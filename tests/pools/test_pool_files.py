"""A pool on the disk: written so that a kill loses nothing, read so that damage is one clear line."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.errors import ConfigError
from structdecode.evaluation.recording import finite
from structdecode.pools.store import Pool, PoolWriter, merge
from structdecode.pools.tape import Tape
from structdecode.records.store import read_run
from tests import processes
from tests.processes import run

COMPARE = ["compare", "--data", "pocket:test", "--limit", "12", "--quiet"]
RECORD = ["record", "--data", "pocket:test", "--limit", "12", "--n", "4", "--branches", "2", "--quiet"]
REPLAYED = [
    "--strategy", "best-of-n", "--strategy", "self-consistency", "--strategy", "staged", "--strategy", "stage-beam", "--sweep", "n=1,2",
]  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pools") / "pocket"
    found = run(*RECORD, "--out", str(out))
    assert found.returncode == 0, found.stderr
    return out


def records(directory: Path) -> dict[str, Any]:
    """Without what depends on the machine: times, and the last bits of scores."""
    found = {}
    for record in read_run(directory).records:
        line = record.as_dict()
        line["seconds"] = line["verifier_seconds"] = 0.0
        line["pool"] = [{**c, "score": None if c["score"] is None else round(c["score"], 4)} for c in line["pool"]]
        line["rounds"] = [
            {**r, "values": [None if v is None else round(finite(v) or 0.0, 4) for v in r["values"]]}
            for r in line["rounds"]
        ]
        found[record.key] = line
    return found


def test_a_replayed_comparison_is_the_comparison(pool: Path, tmp_path: Path) -> None:
    """By the same keys, so that a run may be resumed by a replay of it."""
    real, replayed = tmp_path / "real", tmp_path / "replayed"
    assert run(*COMPARE, *REPLAYED, "--out", str(real)).returncode == 0
    found = run(*COMPARE, *REPLAYED, "--replay", str(pool), "--out", str(replayed))
    assert found.returncode == 0, found.stderr
    assert records(replayed) == records(real) and len(records(real)) == 12 * 7
    said = (replayed / "report.md").read_text()
    assert "Replayed from the pool pocket." in said and "seconds and tokens a second are the replay's own" in said
    assert "Replayed from" not in (real / "report.md").read_text()


def test_what_the_pool_does_not_cover_is_named_with_its_amount(pool: Path, tmp_path: Path) -> None:
    found = run(
        *COMPARE, "--strategy", "best-of-n", "--sweep", "n=4,6", "--replay", str(pool), "--out", str(tmp_path / "out")
    )
    assert found.returncode == 1
    assert (
        "best-of-n/n=6: 12 of 12 questions are not covered by the pool, which lacks at least 24 spans of SUMMARY"
        in found.stderr
    )
    assert {record.cell for record in read_run(tmp_path / "out").records} == {"best-of-n/n=4"}


def test_a_killed_recording_is_resumed_and_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "pool"
    kept = out / "searches.jsonl"
    command = [*RECORD, "--out", str(out), "--concurrency", "2"]
    process = processes.start(*command)
    until = time.monotonic() + 120
    while len(kept.read_bytes().splitlines() if kept.exists() else []) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with kept.open("ab") as file:
        file.write(b'{"prompt": "torn')
    before = len(Pool.open(out))
    assert 3 <= before < 36
    assert run(*command).returncode == 0
    whole = Pool.open(out)
    assert 36 <= len(whole) <= 36 + 4, "a search whose record was not written is there twice at most"
    replayed = run(*COMPARE, *REPLAYED, "--replay", str(out), "--out", str(tmp_path / "out"))
    assert replayed.returncode == 0, replayed.stderr


def test_other_data_another_model_and_nonsense_are_one_line(pool: Path, tmp_path: Path) -> None:
    other = ["compare", "--data", "pocket:validation", "--limit", "3", "--quiet", "--strategy", "best-of-n"]
    asked = [*COMPARE, "--strategy", "best-of-n", "--out", str(tmp_path / "out")]
    damaged = tmp_path / "damaged"
    shutil.copytree(pool, damaged)
    lines = (damaged / "searches.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "searches.jsonl").write_bytes(b"".join([lines[0][:200] + b"\n", *lines[1:]]))
    strange = tmp_path / "strange"
    shutil.copytree(pool, strange)
    header = json.loads((strange / "pool.json").read_text())
    (strange / "pool.json").write_text(json.dumps({**header, "model": {"name": 3}}))
    (tmp_path / "empty").mkdir()
    for command, words in (
        ([*other, "--replay", str(pool), "--out", str(tmp_path / "o1")], "holds no search of the first 3 questions"),
        ([*asked, "--replay", str(tmp_path / "empty")], "not a pool: pool.json"),
        ([*asked, "--replay", str(pool), "--model", "some/other"], "holds searches of pocket, not of some/other"),
        ([*asked, "--replay", str(pool), "--record", str(tmp_path / "x")], "--replay goes without --record"),
        ([*asked, "--replay", str(damaged)], "searches.jsonl:1: damaged"),
        ([*asked, "--replay", str(strange)], "pool.json: damaged: model"),
        ([*asked, "--record", str(tmp_path)], "not empty and not a pool"),
        ([*asked, "--replay", str(pool), "--judge", "self"], "its replies are not recorded"),
    ):
        found = run(*command)
        assert found.returncode == 2 and words in found.stderr, (words, found.stderr)
        assert found.stderr.strip().count("\n") == 0, found.stderr


def test_pools_of_one_model_are_merged_and_of_two_refused(tmp_path: Path) -> None:
    for name, digest in (("a", "1"), ("b", "1"), ("c", "2")):
        writer = PoolWriter(tmp_path / name, {"name": "m", "digest": digest})
        writer.add(Tape("key", 0.0, question=name, texts={"t": [-0.5, float("-inf"), 0.1]}))
        writer.close()
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 2
    merged = Pool.open(tmp_path / "all")
    assert [tape.question for tape in merged.tapes("key")] == ["a", "b"]
    assert merged.tapes("key")[0].texts["t"] == [-0.5, float("-inf"), 0.1], (
        "numbers that float32 has not are kept whole"
    )
    with pytest.raises(ConfigError, match="holds searches of another model"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "both")
    with pytest.raises(ConfigError, match="holds searches of another model"):
        PoolWriter(tmp_path / "a", {"name": "m", "digest": "3"})
    one = PoolWriter(tmp_path / "a", {"name": "m", "digest": "1"})
    with pytest.raises(ConfigError, match="another process is writing"):
        PoolWriter(tmp_path / "a", {"name": "m", "digest": "1"})
    one.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line["rows"][0]["span"].update(bogus=1), ""), (lambda line: line["rows"][0].pop("key"), "key"),
        (lambda line: line["rows"][0].update(path=None), "path"), (lambda line: line["rows"][0].update(drawn="x"), "drawn"),
        (lambda line: line["rows"][0]["span"].update(text=5), "text"), (lambda line: line["rows"][0]["span"].update(token_ids=["q"]), "token_ids"),
        (lambda line: line["rows"][0]["span"].update(log_probs={"f32": [0.5]}), "1 log_probs of"),
        (lambda line: line["rows"][0]["span"].update(log_probs={"f32": [10**400]}), ""), (lambda line: line.update(texts={"a": 5}), ""),
        (lambda line: next(iter(line["prompts"].values())).update(ids=None), "ids"), (lambda line: line.update(hidden="none"), "cannot be read"),
    ],
)  # fmt: skip
def test_damage_inside_of_a_line_is_named_and_nobody_else_blamed(
    change: Any, words: str, pool: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(pool, damaged, ignore=shutil.ignore_patterns("run"))
    lines = (damaged / "searches.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    change(first)
    (damaged / "searches.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    broken = Pool.open(damaged)
    if words:
        for read in (
            lambda: list(broken.searches()),
            lambda: broken.tapes(first["prompt"]),
            lambda: merge([damaged], tmp_path / "out"),
        ):
            with pytest.raises(ConfigError, match=words):
                read()
    else:
        with contextlib.suppress(
            ConfigError
        ):  # what a newer version adds may be passed over, and nothing else is raised
            list(broken.searches())


def test_a_pool_is_not_merged_into_itself(tmp_path: Path) -> None:
    writer = PoolWriter(tmp_path / "a", {"name": "m", "digest": "1"})
    writer.add(Tape("key", 0.0, texts={"t": [-0.5]}))
    writer.close()
    with pytest.raises(ConfigError, match="is one of the pools that are merged"):
        merge([tmp_path / "a"], tmp_path / "x" / ".." / "a")
    assert len(Pool.open(tmp_path / "a")) == 1


def test_a_run_that_is_done_is_not_taken_for_recorded(tmp_path: Path) -> None:
    asked = [*COMPARE[:3], "--limit", "2", "--quiet", "--strategy", "staged", "--out", str(tmp_path / "run")]
    assert run(*asked).returncode == 0
    found = run(*asked, "--record", str(tmp_path / "pool"))
    assert (
        found.returncode == 2 and "lacks 2 of 2 searches that" in found.stderr and found.stderr.strip().count("\n") == 0
    )
