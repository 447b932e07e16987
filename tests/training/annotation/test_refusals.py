"""What a server refuses: one request, or all of them, by its status or in a reply of HTTP 200."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.errors import ApiError, BadRequest, Unanswered
from structdecode.training.annotation.client import Client
from tests.training.annotation.asking import KEY, during, request
from tests.training.annotation.server import Answer, Asked, ChatServer


@pytest.mark.parametrize(
    ("status", "error", "kind", "message"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY}"}, ApiError, r"\[key\].*OPENAI_API_KEY"),
        (403, {"message": "no"}, ApiError, "HTTP 403"),
        (404, {"message": "The model `strong` does not exist"}, ApiError, "the model's name"),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, ApiError, "no credit left"),
        (400, {"message": "image too large"}, BadRequest, "image too large"),
        (413, {"message": "too much"}, BadRequest, "HTTP 413"),
    ],
)  # fmt: skip
def test_what_no_second_try_would_change_is_not_tried_again(
    status: int, error: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with ChatServer(lambda asked: Answer(status=status, error=error)) as server:
        with pytest.raises(kind, match=message) as caught:
            during(server, tmp_path, lambda client: client.ask(request()))
        assert sum(server.asked.values()) == 1
    assert KEY not in str(caught.value)
    kept = (tmp_path / "journal.jsonl").read_text()
    assert KEY not in kept and kept.count("\n") == (kind is BadRequest)  # a refused request is not asked again


def test_a_server_that_refuses_every_request_ends_the_run(tmp_path: Path) -> None:
    async def ask(client: Client) -> int:
        for number in range(50):
            try:
                await client.ask(request(str(number)))
            except BadRequest:
                continue
        return 50

    refusing = Answer(status=400, error={"message": "max_tokens is not supported"})
    with (
        ChatServer(lambda asked: refusing) as server,
        pytest.raises(ApiError, match=r"first 20 requests were all refused.*max_tokens"),
    ):
        during(server, tmp_path, ask)
    (tmp_path / "anew").mkdir()
    with ChatServer(lambda asked: Answer("x") if asked.texts == ["3"] else refusing) as server:
        assert during(server, tmp_path / "anew", ask) == 50


ERRORS: dict[str, tuple[Any, type[Exception], int]] = {
    "of the request": ({"code": 400, "message": "too long for us"}, BadRequest, 1),
    "of the key": ({"code": "401", "message": "too long for us"}, ApiError, 1),
    "of the server": ({"code": 503, "message": "too long for us"}, Unanswered, 3),
    "of no code": ({"message": "too long for us"}, Unanswered, 3), "a text": ("too long for us", Unanswered, 3),
    "no credit": ({"code": 429, "type": "insufficient_quota", "message": "too long for us"}, ApiError, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_in_a_reply_of_200_is_shown_and_judged_by_its_code(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)
    body, kind, times = ERRORS[case]
    with ChatServer(lambda asked: Answer(raw=json.dumps({"error": body}).encode())) as server:
        with pytest.raises(kind, match="too long for us"):
            during(server, tmp_path, lambda client: client.ask(request()))
        assert sum(server.asked.values()) == times


def test_a_refused_request_is_not_asked_again(tmp_path: Path) -> None:
    async def ask_all(client: Client) -> list[str]:
        found = []
        for text in ("bad 1", "good", "bad 2"):
            try:
                found.append((await client.ask(request(text))).text)
            except BadRequest as error:
                found.append(str(error))
        return found

    def script(asked: Asked) -> Answer:
        return Answer(status=400, error={"message": "no such thing"}) if "bad" in asked.texts[0] else Answer("yes")

    with ChatServer(script) as server:
        first = during(server, tmp_path, ask_all)
        content = (tmp_path / "journal.jsonl").read_bytes()
        assert during(server, tmp_path, ask_all) == first and sum(server.asked.values()) == 3
    assert (tmp_path / "journal.jsonl").read_bytes() == content and "no such thing" in first[0]
