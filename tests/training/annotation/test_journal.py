"""The journal: torn and damaged lines, one process at a time, and a client of it alone."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from structdecode.backends.openai.requests import Reply
from structdecode.core.errors import ConfigError
from structdecode.training.annotation.client import JournalClient
from structdecode.training.annotation.errors import NotInJournal
from structdecode.training.annotation.journal import Journal
from tests.training.annotation.asking import request


def test_a_torn_line_is_passed_over_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(request("a"), Reply("one", prompt_tokens=3, completion_tokens=2))
    journal.add(request("b"), Reply("two \u2028 lines\n", id="x"))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "torn')
    assert len(Journal(path, writing=False)) == 2
    again = Journal(path)
    assert path.read_bytes() == whole
    assert again.get(request("b").key) == Reply("two \u2028 lines\n", id="x")
    assert again.get(request("c").key) is None and request("a").key in again
    assert (again.spent("answer").requests, again.spent("answer").prompt_tokens) == (2, 3)
    again.add(request("c"), Reply("three"))
    assert again.get(request("c").key) == Reply("three")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a"}\n{"key"\n')
    with pytest.raises(ConfigError, match=r"journal\.jsonl:1: damaged.*delete this line"):
        Journal(path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"text": None}, "text is "), ({"text": 3}, "text is .*, not text"), ({"key": 7}, "key is"),
        ({"completion_tokens": "9"}, "completion_tokens is text, not a whole number"), ({"finish": []}, "finish is"),
        ({"prompt_tokens": True}, "prompt_tokens is"), ({"purpose": "tea"}, "purpose is 'tea', not one of answer, check"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_reply_is_found_when_the_journal_is_read(
    changed: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(request("a"), Reply("one"))
    journal.close()
    line = {**json.loads(path.read_text()), **changed}
    for damaged in (line, {name: value for name, value in line.items() if name not in changed}, [line]):
        path.write_text(path.read_text().split("\n")[0] + "\n" + json.dumps(damaged) + "\n")
        with pytest.raises(ConfigError, match=r"journal\.jsonl:2: damaged \(.*\): delete this line") as caught:
            Journal(path, writing=False)
        assert damaged is not line or re.search(reason, str(caught.value))


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ConfigError, match="another process"):
        Journal(tmp_path / "journal.jsonl")
    first.close()


def test_a_client_of_the_journal_alone_sends_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(request("paid"), Reply("here"))
    client = JournalClient(journal)
    assert asyncio.run(client.ask(request("paid"))).text == "here"
    with pytest.raises(NotInJournal):
        asyncio.run(client.ask(request("new")))
