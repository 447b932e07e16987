"""A model behind an OpenAI-compatible chat API says how good candidates are."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Sampling, Score

if TYPE_CHECKING:
    from structdecode.verifiers.llm_judge.client import JudgeClient

KEY = "OPENAI_API_KEY"
_WANTED = {
    "pointwise": ("question", "text"),
    "pairwise": ("question", "first", "second"),
    "listwise": ("question", "responses"),
}
"""What a template has to have."""


@dataclass
class _Opened:
    """A client of one event loop, for as long as somebody uses it."""

    client: asyncio.Task[JudgeClient]
    users: int = 0


@dataclass(frozen=True)
class LlmJudge:
    """A judge behind any OpenAI-compatible chat API, which may see the pictures.

    ``pointwise`` asks for a level from 1 to ``levels``; the score is the expected level by the log-probabilities of the
    digits (Liu et al. 2023, G-Eval, arXiv 2303.16634), renormalised over those, as a share of ``levels``; their sum is in the
    details (``label_mass``). Where the server gives no log-probabilities the digit itself counts. ``pairwise`` compares two,
    as `self-judge` does, and ``listwise`` has all of a round ranked at once (Sun et al. 2023, RankGPT, arXiv 2304.09542),
    shuffled: the score is the share of the others that a candidate stands before.

    A candidate about which there is no verdict (no answer from the server, or one that cannot be read) is unscored. The API key
    is read from OPENAI_API_KEY alone. Before a request the search is charged the most that it can cost.

    Attributes:
        model: its name at the server. base_url: default: OPENAI_BASE_URL, else OpenAI's.
        levels: 2 to 9.
        both_orders: ask pairs and lists in both orders, and count as better only what is so in both (Zheng et al. 2023,
            arXiv 2306.05685). ``swaps`` and ``swap_consistent`` in the details say how many comparisons there were, and in
            how many the two agreed.
        tournament: how pairwise verdicts become scores.
        images: show the question's pictures.
        template: the question to the judge, in place of the mode's own: with ``{rubric}``, ``{question}``, ``{hint}`` (earlier
            stages), and ``{stage}``, ``{text}``, ``{levels}`` (pointwise), ``{first}``, ``{second}`` (pairwise) or
            ``{responses}``, ``{count}`` (listwise).
        temperature: of the judge. max_tokens: of its reply, thinking included; default: 16 pointwise, else 512.
        timeout: seconds of one try. retries: further tries where the server or the network fails (a rate limit may say no
            ten times as often).
        concurrency: requests at once.
        price_in, price_out: US dollars for a million tokens of prompts and of replies.
        cache: a directory for replies, which several processes may share; what is there is not asked again.
    """

    model: str
    base_url: str | None = None
    mode: Literal["pointwise", "pairwise", "listwise"] = "pointwise"
    levels: int = 5
    both_orders: bool = False
    tournament: Literal["knockout", "round-robin"] = "knockout"
    images: bool = True
    template: str = ""
    temperature: float = 0.0
    max_tokens: int | None = None
    timeout: float = 60.0
    retries: int = 5
    concurrency: int = 16
    price_in: float = 0.0
    price_out: float = 0.0
    cache: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        Sampling(self.temperature, max_tokens=self.most_tokens)  # raises ConfigError for a value out of range
        for name, least, most in (
            ("levels", 2, 9), ("timeout", 0.001, 86400), ("retries", 0, 100), ("concurrency", 1, 10_000),
            ("price_in", 0, 1e6), ("price_out", 0, 1e6),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"llm-judge: {name} must be from {least:g} to {most:g}, not {getattr(self, name)}")
        missing = [name for name in _WANTED[self.mode] if self.template and f"{{{name}}}" not in self.template]
        if missing:
            raise ConfigError(f"llm-judge: the {self.mode} template lacks '{{{missing[0]}}}'")
        if self.cache is not None and Path(self.cache).exists() and not Path(self.cache).is_dir():
            raise ConfigError(f"llm-judge: cache {self.cache}: is a file: give a directory")
        self._check_server()

    def _check_server(self) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError("openai", "openai")
        if self.base_url is None:
            if not (os.environ.get(KEY, "").strip() or os.environ.get("OPENAI_BASE_URL")):
                raise ConfigError(
                    f"llm-judge: no API key: set {KEY} in the environment, or give base_url for a server without one"
                )
            return
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"llm-judge: base_url {self.base_url}: has to begin with http:// or https://")
        if "@" in self.base_url or "?" in self.base_url:
            raise ConfigError(f"llm-judge: base_url is to hold no password and no query: the key is read from {KEY}")
        try:
            _ = urlsplit(self.base_url).port
        except ValueError as error:
            raise ConfigError(f"llm-judge: base_url {self.base_url}: {error}") from None

    @property
    def most_tokens(self) -> int:
        """Of a reply."""
        return self.max_tokens if self.max_tokens is not None else 16 if self.mode == "pointwise" else 512

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        from structdecode.verifiers.llm_judge.modes import Round

        if not candidates:
            return []
        async with self:
            client = await self._opened[asyncio.get_running_loop()].client
            asked = Round(self, client, prompt, model.charge)
            try:
                if self.mode == "pairwise":
                    return await asked.pairwise(candidates, model)
                return await (asked.pointwise if self.mode == "pointwise" else asked.listwise)(candidates)
            finally:
                asked.stop.set()

    # ------------------------------------------------------------------ one client for a run
    async def __aenter__(self) -> LlmJudge:
        opened, loop = self._opened, asyncio.get_running_loop()
        if loop not in opened:
            opened[loop] = _Opened(asyncio.ensure_future(asyncio.to_thread(self._client)))
        opened[loop].users += 1
        try:
            await asyncio.shield(opened[loop].client)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        opened, loop = self._opened, asyncio.get_running_loop()
        opened[loop].users -= 1
        if opened[loop].users == 0:
            task = opened.pop(loop).client
            if not task.done() or task.exception() is None:
                await (await task).close()

    @cached_property
    def _opened(self) -> WeakKeyDictionary[asyncio.AbstractEventLoop, _Opened]:
        return WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def _client(self) -> JudgeClient:
        from structdecode.backends.openai.api import ChatApi
        from structdecode.backends.openai.throttle import Throttle
        from structdecode.verifiers.llm_judge.cache import ReplyCache
        from structdecode.verifiers.llm_judge.client import JudgeClient, Prices

        return JudgeClient(
            ChatApi(self.base_url, os.environ.get(KEY, "").strip() or "none", self.timeout),
            self.base_url or os.environ.get("OPENAI_BASE_URL", ""),
            Throttle(concurrency=self.concurrency, tries=self.retries + 1),
            Prices(self.price_in, self.price_out),
            None if self.cache is None else ReplyCache(Path(self.cache)),
        )
