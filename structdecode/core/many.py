"""Many prompts at once, taken as they are needed: one driver for whatever asks more than one question."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from structdecode.core import seeds
from structdecode.core.budget import Budget
from structdecode.core.engine import adecode
from structdecode.core.errors import ConfigError, ImageError, PromptError
from structdecode.core.lifetimes import Lifetimes
from structdecode.core.protocols import Backend, Strategy
from structdecode.core.reading import short_repr
from structdecode.core.results import Result, unasked
from structdecode.core.types import Prompt, Schema
from structdecode.core.workers import as_done, numbered


@dataclass(frozen=True)
class Task:
    """A prompt with settings of its own; what is None is as `decode_many` was told."""

    prompt: Prompt | str
    sample_id: str | None = None
    strategy: Strategy | str | None = None
    schema: Schema | str | None = None
    budget: Budget | Mapping[str, float] | None = None
    seed: int | None = None


async def decode_many(
    prompts: Iterable[Prompt | str | Task] | AsyncIterable[Prompt | str | Task],
    *,
    backend: Backend,
    sample_ids: Iterable[object] | None = None,
    concurrency: int = 32,
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    seed: int = 0,
    verifier_timeout: float | None = None,
) -> AsyncGenerator[tuple[int, Result], None]:
    """Decodes many prompts at once; yields ``(index, result)`` as they finish. Whoever stops listening stops the rest.

    A result does not depend on the others: the sample id (default: the index) is part of every seed. A prompt that cannot
    be asked (it is no `Prompt`, or does not fit into the context) has a result without an answer that says why (`Result.error`).

    Args:
        prompts: taken one by one when there is room, from a generator of any length too, no more than ``2 * concurrency``
            ahead of who listens.
        sample_ids: one for each prompt.
        strategy, schema, budget, seed, verifier_timeout: as in `adecode`, for what is no `Task` that says otherwise.

    Raises:
        StructdecodeError: a setting is wrong; or there are fewer sample ids than prompts.
    """
    _check_several("prompts", prompts, (Iterable, AsyncIterable))
    if sample_ids is not None:
        _check_several("sample_ids", sample_ids, (Iterable,))
    seed, verifiers = seeds.checked(seed), Lifetimes()

    async def answered(task: Task) -> Result:
        own_seed = seed if task.seed is None else seeds.checked(task.seed)
        try:
            with verifiers.around():
                return await adecode(
                    task.prompt, backend=backend, strategy=task.strategy or strategy, schema=task.schema or schema,
                    budget=budget if task.budget is None else task.budget, seed=own_seed, sample_id=str(task.sample_id),
                    verifier_timeout=verifier_timeout,
                )  # fmt: skip
        except (PromptError, ImageError) as error:
            return unasked(task.prompt, str(task.sample_id), own_seed, str(error))

    async with verifiers, aclosing(as_done(_tasks(prompts, sample_ids), answered, concurrency)) as results:
        async for index, result in results:
            yield index, result


def _check_several(name: str, given: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(given, kinds) or isinstance(given, str | bytes):
        raise ConfigError(f"{name} must be a list or another iterable, one for each result, not {short_repr(given)}")


async def _tasks(
    prompts: Iterable[Any] | AsyncIterable[Any], sample_ids: Iterable[object] | None
) -> AsyncIterator[Task]:
    ids = None if sample_ids is None else iter(sample_ids)
    async for index, item in numbered(prompts):
        task = item if isinstance(item, Task) else Task(item)
        if task.sample_id is None:
            sample_id = index if ids is None else next(ids, None)
            if sample_id is None:
                raise ConfigError(f"there are more prompts than sample ids ({index})")
            task = replace(task, sample_id=str(sample_id))
        yield task
