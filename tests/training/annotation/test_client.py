"""Requests over real HTTP: each content paid for once, servers that fail, stops, and a limit of cost."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.errors import ApiError, Stopped, Unanswered
from structdecode.backends.openai.requests import Reply
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.journal import Journal
from tests.training.annotation.asking import KEY, during, request
from tests.training.annotation.server import Answer, ChatServer


def test_the_same_content_is_paid_for_once(tmp_path: Path) -> None:
    async def ask_all(client: Client) -> list[Reply]:
        return list(await asyncio.gather(*(client.ask(request(text)) for text in "ababab")))

    with ChatServer(lambda asked: Answer(f"re: {asked.texts[0]}", delay=0.05)) as server:
        replies = during(server, tmp_path, ask_all)
        again = during(server, tmp_path, ask_all)
        assert [reply.text for reply in replies] == ["re: a", "re: b"] * 3 == [reply.text for reply in again]
        assert len(server.answered) == 2 == sum(server.asked.values())
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    "broken",
    [
        Answer(status=500, headers={"retry-after-ms": "5"}), Answer(status=408, headers={"retry-after-ms": "5"}),
        Answer(raw=b"<html>Bad gateway</html>"), Answer(raw=b'{"choices": []}'), Answer(raw=b'{"choices": [{"m'),
        Answer(raw=b"[1, 2]"), Answer(raw=b'{"choices": [{"message": {"content": 7}}]}'),
    ],
)  # fmt: skip
def test_a_failing_server_is_asked_again_and_then_given_up(
    broken: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine") if asked.times == 2 else broken) as server:
        assert during(server, tmp_path, lambda client: client.ask(request())).text == "fine"
    with ChatServer(lambda asked: broken) as server:
        with pytest.raises(Unanswered, match="no answer after 3 tries"):
            during(server, tmp_path / "..", lambda client: client.ask(request("other")))
        assert sum(server.asked.values()) == 3


def test_a_slow_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine", delay=0 if asked.times else 4)) as server:
        assert during(server, tmp_path, lambda client: client.ask(request()), timeout=2).text == "fine"
        assert sum(server.asked.values()) >= 2


def test_a_server_that_drips_does_not_outlast_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drips, args=(connection,), daemon=True).start()

    def drips(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{")
            while True:
                connection.sendall(b" ")
                time.sleep(0.1)
        except OSError:
            return

    threading.Thread(target=drip, daemon=True).start()

    async def run() -> None:
        journal = Journal(tmp_path / "journal.jsonl")
        api = ChatApi(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", KEY, 0.5)
        try:
            await Client(api, journal, CostLimiter(Prices(), journal, None), concurrency=1, tries=2).ask(request())
        finally:
            await api.close()
            journal.close()

    with pytest.raises(Unanswered, match=r"within 0\.5 s"):
        asyncio.run(asyncio.wait_for(run(), 20))
    listener.close()


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine")) as server:
        pass
    with pytest.raises(Unanswered, match="APIConnectionError"):
        during(server, tmp_path, lambda client: client.ask(request()))


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    async def ask(client: Client) -> int:
        for number in range(50):
            try:
                await client.ask(request(str(number)))
            except Unanswered:
                continue
        return 50

    with ChatServer(lambda asked: Answer(status=502)) as server, pytest.raises(ApiError, match="20 requests in a row"):
        during(server, tmp_path, ask, tries=1)
    with ChatServer(lambda asked: Answer("x") if int(asked.texts[0]) % 19 == 5 else Answer(status=502)) as server:
        assert during(server, tmp_path, ask, tries=1) == 50


def test_after_stop_nothing_is_sent_and_what_is_in_flight_is_kept(tmp_path: Path) -> None:
    async def ask(client: Client) -> str:
        under_way = asyncio.create_task(client.ask(request("under way")))
        while not server.active:
            await asyncio.sleep(0.01)
        client.stop.set()
        with pytest.raises(Stopped):
            await client.ask(request("new"))
        return (await under_way).text

    with ChatServer(lambda asked: Answer("fine", delay=0.3)) as server:
        assert during(server, tmp_path, ask) == "fine"
        assert sum(server.asked.values()) == 1
        assert during(server, tmp_path, lambda client: client.ask(request("under way"))).text == "fine"
        assert sum(server.asked.values()) == 1


def test_a_cost_limit_holds_with_requests_in_flight(tmp_path: Path) -> None:
    prices = Prices(prompt=10, completion=1000)  # a request: 100 + 50 tokens = 0.051, at most 100 tokens = 0.1002

    async def ask(client: Client) -> int:
        found = await asyncio.gather(*(client.ask(request(str(n))) for n in range(40)), return_exceptions=True)
        assert all(isinstance(each, Reply | Stopped) for each in found)
        assert client.limiter.spent <= 0.5
        return sum(isinstance(each, Reply) for each in found)

    with ChatServer(lambda asked: Answer("fine", delay=0.02)) as server:
        answered = during(server, tmp_path, ask, prices=prices, limit=0.5)
        assert answered == len(server.answered) == 8  # another one could cost 0.1, and 0.092 are left
        with pytest.raises(Stopped, match=r"cost limit of 0\.5"):
            during(server, tmp_path, lambda client: client.ask(request("new")), prices=prices, limit=0.5)
        assert during(server, tmp_path, ask, prices=prices, limit=0.5) == 8


def test_a_limit_holds_against_a_server_that_pays_back(tmp_path: Path) -> None:
    async def ask_all(client: Client) -> int:
        found = await asyncio.gather(*(client.ask(request(str(i))) for i in range(40)), return_exceptions=True)
        return sum(isinstance(reply, Reply) for reply in found)

    usage = {"prompt_tokens": -(10**9), "completion_tokens": -(10**9)}
    with ChatServer(lambda asked: Answer("x", usage=usage)) as server:
        answered = during(server, tmp_path, ask_all, prices=Prices(1000, 1000), limit=0.3)
    assert 0 < answered < 40
