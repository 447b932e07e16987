"""Runs a strategy on a prompt: meters it, seeds it, traces it, and turns what goes wrong into data."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from structdecode import registry, seeds
from structdecode.assembly import find_schema
from structdecode.border import (
    GRACE,
    ForeignValueError,
    GivenUpError,
    check_timeout,
    checked_score,
    is_list,
    said,
    within,
)
from structdecode.budget import Budget, Meter, Usage
from structdecode.decoder import MeteredDecoder
from structdecode.errors import (
    BudgetSpent,
    ConfigError,
    ImageError,
    PromptError,
    StrategyError,
    StructdecodeError,
)
from structdecode.protocols import Backend, Strategy
from structdecode.reading import cut
from structdecode.trace import Observer, Trace
from structdecode.types import Candidate, Path, Prompt, Ranked, Schema

T = TypeVar("T")

MOST_AT_ONCE = 100_000
"""Questions that may be open at once."""


@dataclass(frozen=True)
class Result:
    """What a search found and what it cost.

    Attributes:
        answer: the visible stages' text of the best candidate; empty where none got that far.
        best: the best candidate, None if not one span was written.
        candidates: all that the strategy ranked, best first; equal ones stand once, with the paths of all.
        usage: everything together; ``usage_by_part`` the generator's and the verifier's shares.
        stopped_by: the limit that ended the search, None if it ended by itself.
        error: why the prompt could not be asked at all (`decode_many`); empty where it was.
    """

    answer: str
    best: Candidate | None
    candidates: tuple[Ranked, ...]
    usage: Usage
    usage_by_part: dict[str, Usage]
    trace: Trace = field(repr=False)
    stopped_by: str | None
    seed: int
    error: str = ""

    @property
    def stages(self) -> dict[str, str]:
        return dict(self.best.stages) if self.best else {}

    @property
    def warnings(self) -> list[str]:
        """What is to be known of the answer beside what failed: that it is malformed, say."""
        return [event["text"] for event in self.trace.events if event["kind"] == "warning"]

    @property
    def draws(self) -> list[tuple[Path, Ranked]]:
        """Each draw's path with what it came to, best first: `candidates` with equal ones as often as they were drawn."""
        return [(path, ranked) for ranked in self.candidates for path in ranked.paths]


async def adecode(
    prompt: Prompt,
    *,
    backend: Backend,
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    sample_id: str = "",
    observer: Observer | None = None,
    verifier_timeout: float | None = None,
) -> Result:
    """Answers a prompt with a strategy.

    Args:
        schema: a schema or its name; None takes the strategy's own (``default_schema``), else ``llava-o1``.
        seed, sample_id: with the candidate's path and stage they decide every random choice.
        observer: called with each trace event as it happens.
        verifier_timeout: seconds after which a verifier's call counts as failed.

    Raises:
        StructdecodeError: a mistake in what was given; nothing that goes wrong during the search raises.
    """
    _check(prompt, backend, budget)
    seed, sample_id = seeds.checked(seed), str(sample_id)
    verifier_timeout = check_timeout(verifier_timeout, "verifier_timeout")
    search = _strategy(strategy)
    if not isinstance(schema, Schema):
        schema = find_schema(schema or str(getattr(search, "default_schema", "llava-o1")))
    schema = schema.for_prompt(prompt)
    meter = Meter(budget or Budget())
    header = {
        "question": prompt.question, "images": [p.digest for p in prompt.images], "schema": schema.name,
        "stages": [s.name for s in schema.stages], "strategy": repr(search), "backend": backend.name,
        "seed": seed, "sample_id": sample_id, **_asked_by(backend),
    }  # fmt: skip
    trace = Trace(header, observer=observer)
    async with backend.open(schema.ask(prompt)) as session:
        decoder = MeteredDecoder(prompt, schema, session, meter, trace, (seed, sample_id), verifier_timeout)
        try:
            ranked = _ranking(await _found(search, schema, decoder, meter), search, decoder)
        except BudgetSpent:
            ranked = decoder.salvage()
        finally:
            await decoder.stop()
    return _result(ranked, schema, meter, trace, seed)


def _check(prompt: Any, backend: Any, budget: Any) -> None:
    if not isinstance(prompt, Prompt):
        raise PromptError(f'a prompt is a Prompt, not {cut(repr(prompt), 60)}: Prompt("What is it?", [picture])')
    if not hasattr(backend, "open") or isinstance(backend, os.PathLike):
        raise ConfigError(
            f"a backend is an object such as TransformersBackend.load(...), not {cut(repr(backend), 60)}: "
            "structdecode.assembly.load_backend makes one of a checkpoint's path"
        )
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigError(f"a budget is a Budget, not {cut(repr(budget), 60)}: Budget(tokens=2000)")


def _strategy(given: Any) -> Strategy:
    search: Strategy = registry.build("strategies", given) if isinstance(given, str) else given
    if isinstance(search, type) or not callable(search):
        raise ConfigError(f"a strategy is a name or an object such as BestOfN(n=4), not {cut(repr(search), 60)}")
    return search


def _name(search: Any) -> str:
    return getattr(search, "__name__", None) or registry.label_of(search)


async def _found(search: Strategy, schema: Schema, decoder: MeteredDecoder, meter: Meter) -> Any:
    """What a strategy gives back. Behind the deadline it has some time to rank what it has, and what the model and
    verifiers are at comes back first.

    Raises:
        BudgetSpent: it came upon the end of the budget, or goes on behind it. StrategyError: it failed.
    """
    left = meter.remaining.seconds
    limit = None if left is None else left + 2 * GRACE
    try:
        return await within(partial(search, schema, decoder), limit, busy=lambda: meter.busy)
    except GivenUpError:
        meter.stopped_by = meter.stopped_by or "seconds"
        raise BudgetSpent("seconds") from None
    except (StructdecodeError, MemoryError, BudgetSpent):
        raise
    except Exception as error:
        if isinstance(error, ExceptionGroup) and error.split(BudgetSpent)[1] is None:  # of a TaskGroup
            raise BudgetSpent(str(meter.stopped_by)) from error
        raise StrategyError(f"strategy {_name(search)} failed: {said(error)}") from error


def _ranking(found: Any, search: Any, decoder: MeteredDecoder) -> list[Ranked]:
    """What a strategy gave back, checked."""
    wrong = next((r for r in found if not isinstance(r, Ranked)), None) if is_list(found) else found
    if wrong is not None or not is_list(found):
        raise StrategyError(
            f"strategy {_name(search)} gave back {cut(repr(wrong), 80)}: it is to give a list of Ranked, best "
            "first (structdecode.rank makes one of candidates and scores)"
        )
    foreign = next((r for r in found if not decoder.made(r)), None)
    if foreign is not None:
        raise StrategyError(
            f"strategy {_name(search)} gave back a candidate that its decoder never made "
            f"({cut(repr(foreign.candidate), 80)}): it is to rank what `extend` returned, as it is"
        )
    try:
        return [replace(ranked, score=checked_score(ranked.score)) for ranked in found]
    except ForeignValueError as error:
        raise StrategyError(f"strategy {_name(search)} ranked by what is no score: {error}") from None


def _asked_by(backend: Backend) -> dict[str, Any]:
    """What the checkpoint itself asks of decoding (repetition penalty and the like), where it does."""
    found = getattr(backend, "constraints", None)
    return {"generation_config": dict(found)} if found else {}


def decode(prompt: Prompt, *, backend: Backend, **options: Any) -> Result:
    """`adecode` for synchronous code; also works where an event loop is running already (notebooks)."""
    return run_sync(adecode(prompt, backend=backend, **options))


async def decode_many(
    prompts: Sequence[Prompt],
    *,
    backend: Backend,
    sample_ids: Sequence[str] | None = None,
    concurrency: int = 32,
    **options: Any,
) -> AsyncIterator[tuple[int, Result]]:
    """Decodes many prompts at once; yields ``(index, result)`` as they finish. Whoever stops listening stops the rest.

    A result does not depend on the others: the sample id (default: the index) is part of every seed. A prompt that cannot
    be asked (it is no `Prompt`, or does not fit into the context) has a result without an answer that says why (`Result.error`).
    """
    if not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_AT_ONCE:
        raise ConfigError(f"concurrency must be a whole number from 1 to {MOST_AT_ONCE:,}, not {concurrency!r}")
    ids = [str(i) for i in (sample_ids if sample_ids is not None else range(len(prompts)))]
    seed = options["seed"] = seeds.checked(options.get("seed", 0))
    places = asyncio.Semaphore(concurrency)

    async def one(index: int) -> tuple[int, Result]:
        async with places:
            try:
                return index, await adecode(prompts[index], backend=backend, sample_id=ids[index], **options)
            except (PromptError, ImageError) as error:
                return index, _unasked(prompts[index], ids[index], seed, str(error))

    tasks = [asyncio.ensure_future(one(index)) for index in range(len(prompts))]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unasked(prompt: object, sample_id: str, seed: int, error: str) -> Result:
    trace = Trace({"question": getattr(prompt, "question", ""), "seed": seed, "sample_id": sample_id})
    trace.add("warning", text=f"not asked: {error}")
    nothing = {"generator": Usage(), "verifier": Usage()}
    return Result("", None, (), Usage(), nothing, trace, None, seed, error)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, in a thread of its own where this one's event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="structdecode")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def _malformed(best: Candidate, schema: Schema) -> Iterator[str]:
    """What is wrong with the stages of an answer, in words."""
    wrong = {span.stage for span in best.spans if span.finish_reason == "invalid"}
    begun = {
        stage.name for stage in schema.stages if any(stage.begin in s.raw for s in best.spans if s.stage == stage.name)
    }
    unopened = [stage for stage in schema.stages if stage.name in wrong - begun]
    if unopened:
        yield (
            f"the model never opened {', '.join(stage.begin for stage in unopened)}: what it wrote instead stands for "
            "these stages (a schema with force_begin opens them for it)"
        )
    others = [stage.name for stage in schema.stages if stage.name in wrong & begun]
    if others:
        yield f"malformed: {', '.join(others)}: a tag is missing or repeated, or another stage stands inside"


def _result(ranked: list[Ranked], schema: Schema, meter: Meter, trace: Trace, seed: int) -> Result:
    best = ranked[0].candidate if ranked and ranked[0].candidate.spans else None
    usage, parts = meter.usage, {str(part): used for part, used in meter.parts.items()}
    result = Result(
        answer=best.answer(schema) if best else "", best=best, candidates=tuple(ranked), usage=usage,
        usage_by_part=parts, trace=trace, stopped_by=meter.stopped_by, seed=seed,
    )  # fmt: skip
    for text in _malformed(best, schema) if best else ():
        trace.add("warning", text=text)
    trace.add(
        "result", ranking=[list(r.candidate.path) for r in ranked], answer=result.answer,
        usage=usage.as_dict(), usage_by_part={part: used.as_dict() for part, used in parts.items()},
        stopped_by=result.stopped_by,
    )  # fmt: skip
    return result
