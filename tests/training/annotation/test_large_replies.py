"""Replies without end: a limit of what is read, whatever their status, compressed or not."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.errors import BadRequest, Unanswered
from structdecode.training.annotation.client import Client
from tests.training.annotation.asking import KEY, during, request
from tests.training.annotation.server import Answer, ChatServer

LARGE = b" " * (17 << 20)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)


def asked(client: Client) -> Any:
    return client.ask(request())


@pytest.mark.parametrize("compressed", [False, True])
def test_a_reply_that_is_too_large_is_refused_and_not_asked_for_again(compressed: bool, tmp_path: Path) -> None:
    answer = Answer(raw=gzip.compress(LARGE), headers={"Content-Encoding": "gzip"}) if compressed else Answer(raw=LARGE)
    with ChatServer(lambda asked: answer) as server:
        for _ in range(2):
            with pytest.raises(BadRequest, match="a reply of more than 16 MiB"):
                during(server, tmp_path, asked)
        assert sum(server.asked.values()) == 1


def test_an_error_that_is_too_large_is_judged_by_its_status(tmp_path: Path) -> None:
    with (
        ChatServer(lambda asked: Answer(status=500, raw=LARGE)) as server,
        pytest.raises(Unanswered, match=r"after 3 tries \(HTTP 500: a reply of more than 16 MiB\)"),
    ):
        during(server, tmp_path, asked)


def test_a_reply_just_below_the_limit_is_read(tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer("x" * (15 << 20))) as server:
        assert len(during(server, tmp_path, asked).text) == 15 << 20


@contextmanager
def endless(head: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server that sends without end, and the bytes that each client took."""
    sent: list[int] = []

    def pour() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            sent.append(0)
            try:
                connection.sendall(head)
                while True:
                    sent[-1] += connection.send(b" " * 65536)
            except OSError:
                connection.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=pour, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", sent


@pytest.mark.parametrize("status", ["200 OK", "307 Temporary Redirect\r\nlocation: /v2", "400 Bad Request"])
def test_no_more_than_the_limit_is_taken_of_a_reply_without_end(status: str) -> None:
    async def post(url: str) -> None:
        api = ChatApi(url, KEY, 60.0)
        try:
            await api.post(request().body(), {})
        finally:
            await api.close()

    with endless(f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n".encode()) as (url, sent):
        with pytest.raises(BadRequest, match=f"HTTP {status[:3]}: a reply of more than 16 MiB"):
            asyncio.run(asyncio.wait_for(post(url), 60))
        assert len(sent) == 1 and sent[0] < 40 << 20  # what the sockets hold comes on top
