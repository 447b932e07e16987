"""Rate limits and back-off: what the server says, else longer each time."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from structdecode.backends.openai.api import retry_after
from structdecode.backends.openai.errors import Unanswered
from structdecode.training.annotation.client import Client
from tests.training.annotation.asking import during, request
from tests.training.annotation.server import Answer, Asked, ChatServer


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


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 2125 00:00:00 GMT"])
def test_a_date_beyond_a_day_is_not_waited_for(date: str) -> None:
    assert retry_after({"retry-after": date}) == math.inf


def test_a_request_that_is_put_off_beyond_a_day_ends_at_once(tmp_path: Path) -> None:
    late = Answer(status=429, headers={"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"})
    with ChatServer(lambda asked: late) as server, pytest.raises(Unanswered, match="after 1 tries"):
        during(server, tmp_path, lambda client: client.ask(request()), tries=1)
    assert len(server.times) == 1
