"""A run that is stopped early: its files hold no less than what the replies in the journal decide."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from structdecode.backends.openai.api import ChatApi
from structdecode.core.problems import Rejected
from structdecode.training.annotation import command, run
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.command import Options
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.annotation.sources import Item, Source, read
from tests.training.annotation.server import Answer, Asked, ChatServer
from tests.training.annotation.world import read_lines, record, right, write_records

OLD, NEW = range(10, 16), range(6)
FILES = ("train.jsonl", "rejected.jsonl")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.KEY, "sk-test-abcdefgh")


def refusing_12(asked: Asked) -> Answer:
    return Answer(status=400, error={"message": "not this one"}) if "card 12?" in asked.task else right(asked)


def annotated(tmp_path: Path, url: str) -> tuple[Options, dict[str, bytes]]:
    """A run of the old records, and its files; the options have the new ones in front of them now."""
    old = write_records(tmp_path, [record(number) for number in OLD], "old.jsonl")
    new = write_records(tmp_path, [record(number) for number in NEW], "new.jsonl")
    options = Options(
        [str(old)], tmp_path / "out", "strong", "judge", url, concurrency=2, quiet=True, prices=Prices(10, 1000)
    )
    assert command.annotate(options) == 0
    files = contents(tmp_path)
    assert [content.count(b"\n") for content in files.values()] == [5, 1]
    return replace(options, sources=[str(new), str(old)]), files


def contents(tmp_path: Path) -> dict[str, bytes]:
    return {name: (tmp_path / "out" / name).read_bytes() for name in FILES}


def test_a_cost_limit_that_is_reached_at_once_takes_nothing_away(tmp_path: Path) -> None:
    with ChatServer(refusing_12) as server:
        options, before = annotated(tmp_path, server.url)
        asked = len(server.seen)
        assert command.annotate(replace(options, max_cost=1e-9)) == command.COST_REACHED
        assert len(server.seen) == asked
    assert contents(tmp_path) == before


def test_interrupted_at_the_first_request_it_takes_nothing_away(tmp_path: Path) -> None:
    interrupting = False

    def script(asked: Asked) -> Answer:
        nonlocal interrupting
        if interrupting:
            interrupting = False  # once: a second one would meet whatever runs by then
            os.kill(os.getpid(), signal.SIGINT)
            return replace(right(asked), delay=0.3)
        return refusing_12(asked)

    with ChatServer(script) as server:
        options, before = annotated(tmp_path, server.url)
        interrupting = True
        assert command.annotate(options) == command.INTERRUPTED
    after = contents(tmp_path)
    assert after["rejected.jsonl"] == before["rejected.jsonl"]
    assert after["train.jsonl"].endswith(before["train.jsonl"])
    assert len(read_lines(tmp_path / "out/train.jsonl")) < len(OLD) + len(NEW) - 1, "it was stopped"


def test_ended_before_the_journal_is_through_it_takes_nothing_away(tmp_path: Path) -> None:
    with ChatServer(refusing_12) as server:
        options, before = annotated(tmp_path, server.url)

    async def cancelled() -> None:
        entries = entries_of(options)
        journal, api = Journal(options.out / "journal.jsonl"), ChatApi(server.url, "key", 10)
        client = Client(api, journal, CostLimiter(Prices(), journal, None), concurrency=1)
        settings = run.Settings(options.out, concurrency=1, quiet=True)
        running = asyncio.create_task(run.annotate(entries, options.annotator(client, None), client, journal, settings))
        for _ in range(4):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await api.close()
        journal.close()

    asyncio.run(cancelled())
    assert contents(tmp_path) == before


def entries_of(options: Options) -> list[Item | Rejected]:
    return read([Source.parse(source) for source in options.sources], ImageStore(options.out))


def test_a_reply_that_comes_after_a_stop_decides_every_record_with_its_content(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        return replace(right(asked), delay=0.3)

    twice = [record(1), record(2), record(1, id="again")]
    source = write_records(tmp_path, twice)
    with ChatServer(script) as server:
        options = Options([str(source)], tmp_path / "out", "strong", "judge", server.url, concurrency=1, quiet=True)
        assert command.annotate(options) == command.INTERRUPTED
        assert len(server.answered) == 1
    assert [each["id"] for each in read_lines(tmp_path / "out/train.jsonl")] == ["card-1", "again"]


def test_a_dry_run_counts_no_request_that_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(refusing_12) as server:
        options, _ = annotated(tmp_path, server.url)
    capsys.readouterr()
    command.dry_run(options)
    assert f"records to annotate: {len(NEW)} of {len(OLD) + len(NEW)}" in capsys.readouterr().out
