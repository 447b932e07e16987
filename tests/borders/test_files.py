"""What is read and written by name: pipes, links, directories, damaged files. Nodes are made here, in a folder of the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.paths import write_atomically
from structdecode.core.reading import parse_json, parse_yaml, read_text
from tests.borders.commands import command, full_disk, one_line

PIPE_READERS = {
    "schema": ["generate", "--question", "What?", "--schema", "PIPE"],
    "study": ["compare", "PIPE", "--out", "OUT"],
    "trace": ["view", "PIPE"],
    "recipe": ["train", "--recipe", "PIPE", "--out", "OUT"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run, with report and traces."""
    out = tmp_path_factory.mktemp("finished") / "run"
    args = ["compare", "--data", "pocket:test", "--limit", "3", "--strategy", "direct", "--strategy", "staged"]
    done = command(*args, "--out", out, "--quiet")
    assert done.code == 0, done
    return out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    assert command("pocket", "sample", "--n", "6", "--out", out).code == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


# ------------------------------------------------------------------ reading


@pytest.fixture
def in_time() -> Iterator[None]:
    """A read from a pipe that nobody writes to would wait for ever."""

    def late(*_: Any) -> None:
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", PIPE_READERS)
def test_a_pipe_is_not_waited_for(what: str, tmp_path: Path, in_time: None) -> None:
    pipe = tmp_path / ("pipe.json" if what in ("schema", "trace") else "pipe.yaml")
    os.mkfifo(pipe)
    args = [{"PIPE": str(pipe), "OUT": str(tmp_path / "out")}.get(arg, arg) for arg in PIPE_READERS[what]]
    assert f"{pipe}: not a regular file" in one_line(*args)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_data_set_that_is_a_pipe_is_said_to_be_one(suffix: str, tmp_path: Path, in_time: None) -> None:
    pipe, out = tmp_path / f"pipe.{suffix}", tmp_path / "out"
    os.mkfifo(pipe)
    for args in (["data", "check", pipe], ["train", "--recipe", "pocket", "--data", pipe, "--out", out],
                 ["compare", "--data", pipe, "--strategy", "direct", "--out", out]):  # fmt: skip
        assert f"{pipe}: not a regular file" in one_line(*args)


def test_a_file_larger_than_anybody_means_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="1099511627776 bytes are more than"):
        read_text(tmp_path / "large")
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_nesting_without_end_is_a_value_error(read: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        read("[" * 10_000 + "]" * 10_000)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "{", '{"a" 1}'])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON|Expecting|delimiter"):
        parse_json(text)


# ------------------------------------------------------------------ writing


def test_a_link_is_written_through(tmp_path: Path) -> None:
    target, link, second = tmp_path / "target", tmp_path / "link", tmp_path / "second"
    target.write_text("old")
    link.symlink_to(target)
    second.symlink_to(link)
    write_atomically(second, "new")
    assert link.is_symlink() and second.is_symlink() and target.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "made")
    write_atomically(dangling, "new")
    assert dangling.is_symlink() and (tmp_path / "made").read_text() == "new"


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomically(pipe, "a trace")
    reader.join(20)
    assert heard == ["a trace"] and pipe.is_fifo() and [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_trace_goes_into_a_pipe(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
    reader.start()
    done = command("generate", "--question", "How many?", "--strategy", "direct", "--trace", str(pipe))
    reader.join(20)
    assert done.code == 0 and json.loads(heard[0])["format"] == "structdecode-trace/1" and pipe.is_fifo()


WRITERS: dict[str, list[str]] = {
    "generate": ["generate", "--question", "How many?", "--strategy", "direct", "--trace", "OUT.json"],
    "view": ["view", "TRACE", "--out", "OUT.html"],
    "compare": ["compare", "--data", "pocket:test", "--limit", "3", "--strategy", "direct", "--out", "OUT", "--quiet"],
    "report": ["report", "RUN"],
    "merge": ["merge", "RUN", "--out", "OUT"],
    "export": ["export", "RUN", "--to", "llava-cot", "--out", "OUT.jsonl"],
    "sample": ["pocket", "sample", "--n", "3", "--out", "OUT"],
    "check": ["data", "check", "DATA", "--out", "OUT.json"],
    "fix": ["data", "check", "DATA", "--fix", "OUT.jsonl"],
}  # fmt: skip


@pytest.mark.parametrize("room", [10, 3000])
@pytest.mark.parametrize("task", WRITERS)
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_whole(
    task: str, room: int, copy: Path, dataset: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    assert command("generate", "--question", "How many?", "--strategy", "direct", "--trace", trace).code == 0
    out = tmp_path / "out"
    given = {"RUN": str(copy), "DATA": str(dataset), "TRACE": str(trace)}
    words = [given.get(word, word.replace("OUT", str(out))) for word in WRITERS[task]]
    if Path(words[-1]).suffix:
        Path(words[-1]).write_text("old")
    with full_disk(room):
        done = command(*words)
    if done.code == 0:
        assert room > 10  # it fits
        return
    assert "File too large" in done.err and done.err.count("\n") == 1, done.err
    if Path(words[-1]).suffix:
        assert Path(words[-1]).read_text() == "old"
    assert not list(tmp_path.rglob("*partial*"))
    assert command(*words).code == 0  # room was made


# ------------------------------------------------------------------ damaged runs

COMMANDS = {
    "report": ["report", "RUN"],
    "merge": ["merge", "RUN", "--out", "OUT"],
    "export": ["export", "RUN", "--to", "llava-cot", "--out", "OUT"],
    "compare": ["compare", "--data", "pocket:test", "--limit", "3", "--strategy", "direct", "--strategy", "staged",
                "--out", "RUN", "--quiet"],
}  # fmt: skip
DEEP = "[" * 10_000 + "]" * 10_000
LINES = {
    "null": "null", "list": "[]", "empty mapping": "{}", "number": "7", "text": '"a"', "torn": '{"key": "a',
    "nested": DEEP, "NaN": '{"key": NaN}', "no JSON": "%", "wrong type": '{"key": 1}', "key alone": '{"key": "k"}',
}  # fmt: skip
STUDIES: dict[str, Any] = {
    "null": None, "list": [], "no config": {"format": "structdecode-study/1"},
    "config a list": {"format": "structdecode-study/1", "config": []},
    "cells a text": {"format": "structdecode-study/1", "config": {"cells": "x", "record_version": 2}},
    "another format": {"format": "x"},
}  # fmt: skip


def given(task: str, run: Path) -> list[str]:
    return [{"RUN": str(run), "OUT": str(run.parent / "out.jsonl")}.get(arg, arg) for arg in COMMANDS[task]]


@pytest.mark.parametrize(("damage", "task"), [*((d, "merge") for d in LINES), *(("null", t) for t in COMMANDS)])
def test_a_damaged_record_is_named_with_its_remedy(damage: str, task: str, copy: Path) -> None:
    path = copy / "records.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join([whole[0], LINES[damage], *whole[1:]]) + "\n")
    said = one_line(*given(task, copy))
    assert f"{path}:2: damaged (" in said and "delete this line" in said
    path.write_text("\n".join(whole) + "\n")  # the remedy
    assert damage != "null" or command(*given(task, copy)).code == 0


@pytest.mark.parametrize(("damage", "task"), [*((d, "merge") for d in STUDIES), *(("null", t) for t in COMMANDS)])
def test_a_damaged_study_is_named(damage: str, task: str, copy: Path) -> None:
    (copy / "study.json").write_text(json.dumps(STUDIES[damage]))
    assert str(copy / "study.json") in one_line(*given(task, copy))


@pytest.mark.parametrize("field", ["width", "independent", "baseline", "seed", "schema"])
def test_a_damaged_cell_of_a_study_is_named(field: str, copy: Path) -> None:
    path = copy / "study.json"
    study = json.loads(path.read_text())
    study["config"]["cells"][0][field] = None
    path.write_text(json.dumps(study))
    assert f"{path}: damaged: config.cells[0].{field} is " in one_line("report", copy)


@pytest.mark.parametrize("name", ["rejected.jsonl", "questions.jsonl"])
@pytest.mark.parametrize("damage", [name for name in LINES if name != "torn"])
def test_damaged_data_lines_are_named(damage: str, name: str, copy: Path) -> None:
    (copy / name).write_text(LINES[damage] + "\n")
    assert f"{copy / name}:1: damaged (" in one_line("report", copy)


@pytest.mark.parametrize("name", ["records.jsonl", "traces.jsonl", "study.json", "questions.jsonl", "sessions.jsonl"])
@pytest.mark.parametrize("task", COMMANDS)
def test_a_pipe_in_a_run_directory_is_not_waited_for(task: str, name: str, copy: Path, in_time: None) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    done = command(*given(task, copy))
    read = {"report": "records traces study questions", "export": "records traces study questions", "merge": "all",
            "compare": "records traces study sessions"}[task]  # fmt: skip
    if read == "all" or Path(name).stem in read:
        assert name in done.err and "not a regular file" in done.err, done
        assert done.code == 2 and done.err.count("\n") == 1


@pytest.mark.parametrize("at", [0, 1, -1])
@pytest.mark.parametrize("damage", ["cut", "{}", "key alone"])
def test_an_export_names_the_damaged_lines_of_its_traces_and_uses_the_others(at: int, damage: str, copy: Path) -> None:
    path = copy / "traces.jsonl"
    whole = path.read_text().splitlines()
    changed = list(whole)
    changed[at] = {"cut": whole[at][:-9], "{}": "{}", "key alone": whole[at].partition(",")[0] + "}"}[damage]
    path.write_text("\n".join(changed) + ("" if at == -1 and damage == "cut" else "\n"))
    out = copy.parent / "out.jsonl"
    done = command("export", copy, "--to", "llava-cot", "--out", out)
    number = range(1, len(whole) + 1)[at]
    assert done.code == 0 and f"{path}:{number} (" in done.err and done.err.count("\n") == 1, done
    assert "1 x no whole trace was kept" in done.out and out.read_text()
    path.write_text("{}\n" * 9)
    said = one_line("export", copy, "--to", "llava-cot", "--out", out)
    assert f"{path}:5 (" in said and "and 4 more" in said


@pytest.mark.parametrize("damage", ["{", '{"key": "KEY", "trace": 1}', '{"key": "KEY"', '{"key": "KEY', DEEP])
def test_a_damaged_trace_costs_its_tree_alone(damage: str, copy: Path) -> None:
    path = copy / "traces.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([damage.replace("KEY", json.loads(first)["key"]), *others]) + "\n")
    done = command("report", str(copy))
    assert done.code == 0, done


def test_a_rejected_row_with_a_field_of_a_newer_version_is_read(copy: Path) -> None:
    row = {"file": "a", "line": None, "problem": "b", "message": "c", "newer": 1}
    (copy / "rejected.jsonl").write_text(json.dumps(row) + "\n")
    assert command("report", str(copy)).code == 0


@pytest.mark.parametrize("field", ["tokens", "text", "stage", "seed", "finish_reason"])
def test_a_strangers_trace_puts_no_markup_into_the_report(field: str, copy: Path) -> None:
    path, script = copy / "traces.jsonl", "<img src=x onerror=alert(1)>"
    changed = [json.loads(line) for line in path.read_text().splitlines()]
    for line in changed:
        for event in line["trace"]["events"]:
            if event["kind"] == "candidate":
                event[field] = script
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert command("report", copy).code == 0
    assert script not in (copy / "report.html").read_text()
