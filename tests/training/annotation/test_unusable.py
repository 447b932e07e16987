"""Replies that a server counts tokens for and that nobody can use: each is billed, and asked for again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.errors import Stopped, Unanswered
from structdecode.backends.openai.requests import MOST_TOKENS, Reply
from structdecode.training.annotation.checks import Problem
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.costs import Prices
from structdecode.training.annotation.journal import Journal
from tests.training.annotation.asking import during, request
from tests.training.annotation.server import Answer, ChatServer

USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
UNUSABLE: dict[str, Any] = {
    "no choices": {"choices": []}, "choices null": {"choices": None}, "nothing": {},
    "message null": {"choices": [{"message": None}]}, "a number": {"choices": [{"message": {"content": 7}}]},
    "an object": {"choices": [{"message": {"content": {"text": "x"}}}]}, "an error": {"error": {"message": "busy"}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)


def unusable(case: str, usage: Any = USAGE) -> Answer:
    return Answer(raw=json.dumps({**UNUSABLE[case], "usage": usage}).encode())


def asked(client: Client) -> Any:
    return client.ask(request())


def spent(tmp_path: Path) -> tuple[int, int, int]:
    found = Journal(tmp_path / "journal.jsonl", writing=False).spent("answer")
    return found.requests, found.prompt_tokens, found.completion_tokens


@pytest.mark.parametrize("case", UNUSABLE)
def test_each_is_billed_and_the_request_asked_again(case: str, tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer("fine") if asked.times == 2 else unusable(case)) as server:
        assert during(server, tmp_path, asked).text == "fine"
        assert during(server, tmp_path, asked).text == "fine"
        assert sum(server.asked.values()) == 3
    assert spent(tmp_path) == (3, 300, 150)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"choices": null}', "no chat completion"), (b"[1]", "no chat completion"), (b"null", "no chat completion"),
        (b"<html>\x1b[31m<body>Log in</body>", "not JSON"), (b"", "not JSON"), (b"x" * 9999, "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told_in_one_line_with_the_remedy(raw: bytes, says: str, tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer(raw=raw)) as server, pytest.raises(Unanswered) as caught:
        during(server, tmp_path, asked, tries=1)
    told = str(caught.value)
    assert told.isprintable() and len(told) < 400 and f"the reply is {says} (HTTP 200, application/json" in told
    assert (raw[:5].decode() if raw else "it is empty") in told and "the base URL has to be" in told


def test_a_problem_quotes_no_control_characters_and_nothing_long() -> None:
    problem = Problem("bad-request", "a\x1b[31m\nb" + "c" * 3000)
    assert problem.message.isprintable() and len(problem.message) < 600


def test_given_up_they_are_billed_and_asked_again_by_the_next_start(tmp_path: Path) -> None:
    with ChatServer(lambda asked: unusable("no choices")) as server, pytest.raises(Unanswered, match="after 3 tries"):
        during(server, tmp_path, asked)
    assert spent(tmp_path) == (3, 300, 150)
    with ChatServer(lambda asked: Answer("fine")) as server:
        assert during(server, tmp_path, asked) == Reply("fine", "stop", "", 100, 50, during(server, tmp_path, asked).id)


def test_a_cost_limit_holds_against_a_server_that_sends_nothing_else(tmp_path: Path) -> None:
    prices = Prices(prompt=10, completion=1000)  # a try: 0.051, held back with 0.1 and more
    with ChatServer(lambda asked: unusable("a number")) as server:
        with pytest.raises(Stopped, match=r"cost limit of 0\.2 is reached \(0\.1020 spent\)"):
            during(server, tmp_path, asked, tries=50, prices=prices, limit=0.2)
        assert sum(server.asked.values()) == 2


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        (None, (0, 0, 0)), ("much", (0, 0, 0)), ([], (0, 0, 0)), ({}, (0, 0, 0)),
        ({"prompt_tokens": 9}, (1, 9, 0)), ({"prompt_tokens": -9, "completion_tokens": True}, (0, 0, 0)),
        ({"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 3}, (1, 0, 3)),
    ],
)  # fmt: skip
def test_only_what_a_server_counts_is_billed(usage: Any, billed: tuple[int, int, int], tmp_path: Path) -> None:
    with ChatServer(lambda asked: unusable("no choices", usage)) as server, pytest.raises(Unanswered):
        during(server, tmp_path, asked, tries=1)
    assert spent(tmp_path) == billed
