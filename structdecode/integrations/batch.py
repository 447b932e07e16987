"""Answers a harness's questions, all of them in flight, each with settings of its own.

A harness has a thousand pictures: each is opened at its question's turn. A question may be left out then, and has an
answer, be it an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from structdecode.core.engine import adecode, run_sync
from structdecode.core.errors import ImageError, PromptError
from structdecode.core.lifetimes import lifetimes
from structdecode.core.protocols import Backend
from structdecode.core.results import Result
from structdecode.core.types import Prompt, Schema
from structdecode.core.workers import as_done
from structdecode.integrations.search import Search, cut_at


@dataclass(frozen=True)
class BatchItem:
    """A question to be asked.

    Attributes:
        sample_id: with the run's seed it decides every random choice.
        prompt: called when it is this question's turn, so that pictures are open only for those in flight.
        until: the answer is cut at the first of these.
    """

    sample_id: str
    prompt: Callable[[], Prompt]
    schema: Schema
    until: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Answer:
    """``result`` is None where the question could not be asked; then ``error`` says why and ``text`` is empty."""

    text: str
    result: Result | None = None
    error: str = ""


def answer_all(
    items: Sequence[BatchItem],
    search: Search,
    backend: Backend,
    *,
    finished: Callable[[BatchItem, Answer], None] = lambda item, answer: None,
    skip: Callable[[], str] = lambda: "",
) -> list[Answer]:
    """An answer to every item, in order.

    Args:
        finished: called with each as it is done, in any order.
        skip: asked before each starts; where it gives a reason, the item is left out with that as its error.

    Raises:
        ConfigError: what is wrong is not one question but the task (video, say).
    """
    return run_sync(_answer_all(items, search, backend, finished, skip))


async def _answer_all(
    items: Sequence[BatchItem],
    search: Search,
    backend: Backend,
    finished: Callable[[BatchItem, Answer], None],
    skip: Callable[[], str],
) -> list[Answer]:
    async def one(item: BatchItem) -> Answer:
        reason = skip()
        answer = Answer("", error=reason) if reason else await _answer(item, search, backend)
        finished(item, answer)
        return answer

    answers: dict[int, Answer] = {}
    async with lifetimes(), aclosing(as_done(items, one, search.concurrency)) as done:
        async for index, answer in done:
            answers[index] = answer
    return [answers[index] for index in range(len(items))]


async def _answer(item: BatchItem, search: Search, backend: Backend) -> Answer:
    try:
        result = await adecode(
            item.prompt(), backend=backend, strategy=search.strategy, schema=item.schema, budget=search.budget,
            seed=search.seed, sample_id=item.sample_id,
        )  # fmt: skip
    except (PromptError, ImageError) as error:
        return Answer("", error=str(error))
    return Answer(cut_at(result.answer, item.until), result)
