"""200 records, killed twice with SIGKILL: the same files as undisturbed, nothing paid for twice."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from structdecode.data import load
from tests import processes
from tests.training.annotation.server import ChatServer
from tests.training.annotation.world import conclusions, faulty, read_lines, record, write_records

KEY = "sk-test-7f3a9c0d5e1b"
CONCURRENCY = 8
FILES = ("train.jsonl", "rejected.jsonl", "annotation.json")


def start(source: Path, out: Path, url: str, *options: str) -> processes.Command:
    return processes.start(
        "annotate", "--source", source, "--out", out, "--base-url", url, "--model", "strong", "--judge-model", "judge",
        "--concurrency", CONCURRENCY, "--quiet", *options, environment={"OPENAI_API_KEY": KEY},
    )  # fmt: skip


def finish(process: processes.Command, code: int = 0) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return out + err


def paid(out: Path) -> set[str]:
    """Server-side names of the replies on the disk; the last line may be torn."""
    path = out / "journal.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return {json.loads(line)["id"].removeprefix("chatcmpl-") for line in whole}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 records, and four broken ones between them."""
    folder = tmp_path_factory.mktemp("cards")
    path = write_records(folder, [record(number) for number in range(200)])
    lines = path.read_text().splitlines()
    lines[50:50] = [
        '{"id": "broken", "image": ',
        json.dumps(record(3)),
        json.dumps(record(900)),
        json.dumps(record(901, id="no-turns", conversations=[])),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_killed_twice_ends_with_the_same_files_and_pays_for_nothing_twice(source: Path, tmp_path: Path) -> None:
    with ChatServer(faulty) as server:
        finish(start(source, tmp_path / "whole", server.url))
        needed = len(server.answered)
        assert max(Counter(server.answered).values()) == 1
        assert server.most <= CONCURRENCY
    killed = tmp_path / "killed"
    in_flight: list[set[str]] = []
    journals: list[tuple[set[str], int]] = []
    with ChatServer(faulty) as server:
        for part in (1, 2):
            process = start(source, killed, server.url)
            server.wait_for_answers(part * needed // 3)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            server.settle()
            in_flight.append(set(server.answered) - paid(killed))
            journals.append((paid(killed), len(server.answered)))
            assert needed > len(paid(killed)) > 0, "killed too late, or nothing kept"
        finish(start(source, killed, server.url))
        answers = Counter(server.answered)
        for kept, count in journals:
            assert not kept & set(server.answered[count:]), "paid for again after a restart"
        twice = {content for content, count in answers.items() if count > 1}
        assert twice <= in_flight[0] | in_flight[1], "paid for twice, though not in flight at a kill"
        assert all(len(lost) <= CONCURRENCY for lost in in_flight), in_flight
        assert len(server.answered) <= needed + sum(map(len, in_flight))
        assert set(server.answered) == paid(killed)
    for name in FILES:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    check_whole(killed)


def check_whole(out: Path) -> None:
    """What the 200 records and the four broken ones must come to."""
    accepted, rejected = read_lines(out / "train.jsonl"), read_lines(out / "rejected.jsonl")
    numbers = [int(line["id"].removeprefix("card-")) for line in accepted]
    assert numbers == [n for n in range(200) if n % 10 != 5], "not all, or not in the data's order"
    problems = Counter(line["problem"] for line in rejected)
    assert problems == {"refused": 20, "bad-json": 1, "duplicate-id": 1, "missing-turn": 1, "image-missing": 1}
    expected = [
        "the bike there, which is red" if n % 10 == 8 else str(n % 9 if n % 10 == 9 else n % 9 + 1) for n in numbers
    ]
    assert conclusions(accepted) == expected
    loaded = load(out / "train.jsonl")
    assert loaded.rejected == () and len(loaded.questions) == 180
    assert all(KEY not in path.read_text(errors="replace") for path in out.glob("*.json*"))


def test_a_restart_of_a_finished_run_asks_nothing(tmp_path: Path) -> None:
    source, out = write_records(tmp_path, [record(number) for number in range(20)]), tmp_path / "out"
    with ChatServer(faulty) as server:
        finish(start(source, out, server.url))
        before = {name: (out / name).read_bytes() for name in (*FILES, "journal.jsonl")}
        asked = sum(server.asked.values())
        finish(start(source, out, server.url))
        assert sum(server.asked.values()) == asked
    assert {name: (out / name).read_bytes() for name in before} == before
