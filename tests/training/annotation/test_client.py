"""Requests over real HTTP: rate limits, failing servers, refused requests, and each content paid for once."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from structdecode.errors import ConfigError
from structdecode.training.annotation.client import ChatApi, Client, JournalClient, retry_after
from structdecode.training.annotation.costs import Prices, Purse
from structdecode.training.annotation.errors import ApiError, BadRequest, NotPaid, Stopped, Unanswered
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.requests import Message, Reply, Request, picture_tokens, read_reply
from tests.training.annotation.server import Answer, Asked, ChatServer

KEY = "sk-secret-0123456789"


def request(text: str = "Hello", **fields: Any) -> Request:
    return Request("strong", (Message("user", text),), 100, **fields)


def during(
    server: ChatServer, path: Path, work: Callable[[Client], Awaitable[Any]], *, concurrency: int = 4, tries: int = 3,
    timeout: float = 5.0, prices: Prices | None = None, limit: float | None = None,
) -> Any:  # fmt: skip
    async def run() -> Any:
        journal = Journal(path / "journal.jsonl")
        api = ChatApi(server.url, KEY, timeout)
        try:
            purse = Purse(prices or Prices(), journal, limit)
            return await work(Client(api, journal, purse, concurrency=concurrency, tries=tries))
        finally:
            await api.close()
            journal.close()

    return asyncio.run(run())


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


def test_a_rate_limit_holds_back_everybody_for_as_long_as_the_server_says(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        if asked.texts[0] == "first" and asked.times == 0:
            return Answer(status=429, headers={"Retry-After": "2.5"})
        return Answer("fine")

    async def ask(client: Client) -> None:
        first = asyncio.create_task(client.ask(request("first")))
        async with asyncio.timeout(60):
            while not client.waiting:
                await asyncio.sleep(0.01)
        assert 1.0 < client.waiting < 2.7  # without the header it would be 1.0 at most
        await asyncio.gather(first, *(client.ask(request(f"later {n}")) for n in range(3)))

    with ChatServer(script) as server:
        during(server, tmp_path, ask)
        assert len(server.times) == 5
        assert min(server.times[1:]) - server.times[0] >= 2.5


def test_without_retry_after_waits_double(tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer("fine") if asked.times == 2 else Answer(status=503)) as server:
        during(server, tmp_path, lambda client: client.ask(request()))
        first, second = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
        assert first >= 0.5 and second >= 1.0


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
    monkeypatch.setattr("structdecode.training.annotation.client._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine") if asked.times == 2 else broken) as server:
        assert during(server, tmp_path, lambda client: client.ask(request())).text == "fine"
    with ChatServer(lambda asked: broken) as server:
        with pytest.raises(Unanswered, match="no answer after 3 tries"):
            during(server, tmp_path / "..", lambda client: client.ask(request("other")))
        assert sum(server.asked.values()) == 3


def test_a_slow_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.training.annotation.client._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine", delay=0 if asked.times else 4)) as server:
        assert during(server, tmp_path, lambda client: client.ask(request()), timeout=2).text == "fine"
        assert sum(server.asked.values()) >= 2


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.training.annotation.client._LONGEST_WAIT", 0.01)
    with ChatServer(lambda asked: Answer("fine")) as server:
        pass
    with pytest.raises(Unanswered, match="APIConnectionError"):
        during(server, tmp_path, lambda client: client.ask(request()))


@pytest.mark.parametrize(
    ("status", "error", "kind", "message"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY}"}, ApiError, r"\[key\].*OPENAI_API_KEY"),
        (403, {"message": "no"}, ApiError, "HTTP 403"),
        (404, {"message": "The model `strong` does not exist"}, ApiError, "--model"),
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


def test_an_address_without_a_scheme() -> None:
    with pytest.raises(ConfigError, match="begin with http"):
        ChatApi("localhost:8000/v1", KEY, 5)


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
        assert client.purse.spent <= 0.5
        return sum(isinstance(each, Reply) for each in found)

    with ChatServer(lambda asked: Answer("fine", delay=0.02)) as server:
        answered = during(server, tmp_path, ask, prices=prices, limit=0.5)
        assert answered == len(server.answered) == 8  # another one could cost 0.1, and 0.092 are left
        with pytest.raises(Stopped, match=r"cost limit of 0\.5"):
            during(server, tmp_path, lambda client: client.ask(request("new")), prices=prices, limit=0.5)
        assert during(server, tmp_path, ask, prices=prices, limit=0.5) == 8


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5), ({}, None),
        ({"retry-after": "soon"}, None), ({"retry-after": "-3"}, None), ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None), ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
    ],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_a_date() -> None:
    wait = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None and 27 < wait <= 30


# ------------------------------------------------------------------ journal and requests


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


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ConfigError, match="another process"):
        Journal(tmp_path / "journal.jsonl")
    first.close()


def test_the_key_is_of_everything_that_is_asked() -> None:
    plain = request()
    assert plain.key == request().key == request(purpose="check").key
    picture = Request("strong", (Message("user", "Hello", Path("x.png"), "digest"),), 100)
    others = [request("Hello!"), request(temperature=0.0), request(seed=1), request(extra={"a": 1}), picture]
    others += [Request("weak", plain.messages, 100), Request("strong", plain.messages, 101)]
    assert len({plain.key, *(other.key for other in others)}) == 8


def test_models_that_think_get_the_fields_that_they_know() -> None:
    thinking = Request("gpt-5", request().messages, 100, temperature=0.0).body()
    assert thinking["max_completion_tokens"] == 100 and "max_tokens" not in thinking and "temperature" not in thinking
    assert request(temperature=0.0).body()["temperature"] == 0.0


def test_a_server_that_does_not_count_tokens() -> None:
    reply = read_reply('{"choices": [{"message": {"content": "eight ch", "x": "\\ud800"}}]}', request())
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish) == (10, 2, "stop")
    lone = read_reply('{"choices": [{"message": {"content": "a \\ud800"}}]}', request())
    assert lone.text == "a ?"


@pytest.mark.parametrize(
    ("size", "tokens"), [((1024, 1024), 765), ((2048, 4096), 1105), ((512, 512), 255), ((0, 0), 1445)]
)
def test_picture_tokens_are_those_of_openais_own_examples(size: tuple[int, int], tokens: int) -> None:
    assert picture_tokens(*size) == tokens


def test_a_client_of_the_journal_alone_sends_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(request("paid"), Reply("here"))
    client = JournalClient(journal)
    assert asyncio.run(client.ask(request("paid"))).text == "here"
    with pytest.raises(NotPaid):
        asyncio.run(client.ask(request("new")))


# ------------------------------------------------------------------ servers that do not keep to it


def raw(**fields: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **fields}).encode()


@pytest.mark.parametrize("count", [-(10**9), 10**400, True, "5", 1.5, None, [1]])
def test_counts_of_tokens_that_cannot_be_are_guessed(count: Any) -> None:
    text = raw(usage={"prompt_tokens": count, "completion_tokens": count}).decode()
    if count == 10**400:
        text = text.replace(str(count), "1" + "0" * 400)
    reply = read_reply(text, request())
    assert 0 < reply.prompt_tokens < 1000 and 0 <= reply.completion_tokens < 1000


def test_a_limit_holds_against_a_server_that_pays_back(tmp_path: Path) -> None:
    async def ask_all(client: Client) -> int:
        found = await asyncio.gather(*(client.ask(request(str(i))) for i in range(40)), return_exceptions=True)
        return sum(isinstance(reply, Reply) for reply in found)

    usage = {"prompt_tokens": -(10**9), "completion_tokens": -(10**9)}
    with ChatServer(lambda asked: Answer("x", usage=usage)) as server:
        answered = during(server, tmp_path, ask_all, prices=Prices(1000, 1000), limit=0.3)
    assert 0 < answered < 40


def test_content_of_parts_is_read_and_billed() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "reasoning"}, {"type": "text", "text": "b"}]
    choice = {"message": {"content": parts}, "finish_reason": "stop"}
    reply = read_reply(
        json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}), request()
    )
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("ab", 7, 3)


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
    monkeypatch.setattr("structdecode.training.annotation.client._LONGEST_WAIT", 0.01)
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


def test_a_server_that_drips_does_not_outlast_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structdecode.training.annotation.client._LONGEST_WAIT", 0.01)
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
            await Client(api, journal, Purse(Prices(), journal, None), concurrency=1, tries=2).ask(request())
        finally:
            await api.close()
            journal.close()

    with pytest.raises(Unanswered, match=r"within 0\.5 s"):
        asyncio.run(asyncio.wait_for(run(), 20))
    listener.close()


def test_a_server_that_echoes_the_key_puts_it_nowhere(tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer(f"your key is {KEY}", refusal=None)) as server:
        reply = during(server, tmp_path, lambda client: client.ask(request()))
    assert reply.text == "your key is [key]" and KEY not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize("url", ["http://localhost:99999/v1", "http://localhost:-1/v1", "http://localhost:port/v1"])
def test_an_address_with_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url"):
        ChatApi(url, KEY, 5.0)


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 2125 00:00:00 GMT"])
def test_a_date_beyond_a_day_is_not_waited_for(date: str) -> None:
    assert retry_after({"retry-after": date}) is None


@pytest.mark.parametrize("key", ["none", "EMPTY", "token"])
def test_a_placeholder_for_a_key_is_a_word_like_any_other(key: str, tmp_path: Path) -> None:
    async def run(url: str) -> Reply:
        journal = Journal(tmp_path / "journal.jsonl")
        api = ChatApi(url, key, 5.0)
        try:
            return await Client(api, journal, Purse(Prices(), journal, None), concurrency=1).ask(request())
        finally:
            await api.close()
            journal.close()

    with ChatServer(lambda asked: Answer(f"there are {key}.")) as server:
        assert asyncio.run(run(server.url)).text == f"there are {key}."


def test_a_key_that_no_header_can_hold() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        ChatApi("http://localhost:1/v1", "\u201csk-abcdefghijkl\u201d", 5.0)
