"""The address and the key of an API: what cannot be used, and a key that a server echoes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.requests import Reply
from structdecode.core.errors import ConfigError
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.journal import Journal
from tests.training.annotation.asking import KEY, during, request
from tests.training.annotation.server import Answer, ChatServer


def test_an_address_without_a_scheme() -> None:
    with pytest.raises(ConfigError, match="begin with http"):
        ChatApi("localhost:8000/v1", KEY, 5)


@pytest.mark.parametrize("url", ["http://localhost:99999/v1", "http://localhost:-1/v1", "http://localhost:port/v1"])
def test_an_address_with_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url"):
        ChatApi(url, KEY, 5.0)


def test_a_key_that_no_header_can_hold() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        ChatApi("http://localhost:1/v1", "\u201csk-abcdefghijkl\u201d", 5.0)


def test_a_server_that_echoes_the_key_puts_it_nowhere(tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer(f"your key is {KEY}", refusal=None)) as server:
        reply = during(server, tmp_path, lambda client: client.ask(request()))
    assert reply.text == "your key is [key]" and KEY not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize("key", ["none", "EMPTY", "token"])
def test_a_placeholder_for_a_key_is_a_word_like_any_other(key: str, tmp_path: Path) -> None:
    async def run(url: str) -> Reply:
        journal = Journal(tmp_path / "journal.jsonl")
        api = ChatApi(url, key, 5.0)
        try:
            return await Client(api, journal, CostLimiter(Prices(), journal, None), concurrency=1).ask(request())
        finally:
            await api.close()
            journal.close()

    with ChatServer(lambda asked: Answer(f"there are {key}.")) as server:
        assert asyncio.run(run(server.url)).text == f"there are {key}."
