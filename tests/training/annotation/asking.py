"""A client with a journal for the tests to ask through, and the requests that they send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.requests import ChatMessage, Request
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.journal import Journal
from tests.training.annotation.server import ChatServer

KEY = "sk-secret-0123456789"


def request(text: str = "Hello", **fields: Any) -> Request:
    return Request("strong", (ChatMessage("user", text),), 100, **fields)


def during(
    server: ChatServer, path: Path, work: Callable[[Client], Awaitable[Any]], *, concurrency: int = 4, tries: int = 3,
    timeout: float = 5.0, prices: Prices | None = None, limit: float | None = None,
) -> Any:  # fmt: skip
    async def run() -> Any:
        journal = Journal(path / "journal.jsonl")
        api = ChatApi(server.url, KEY, timeout)
        try:
            limiter = CostLimiter(prices or Prices(), journal, limit)
            return await work(Client(api, journal, limiter, concurrency=concurrency, tries=tries))
        finally:
            await api.close()
            journal.close()

    return asyncio.run(run())
