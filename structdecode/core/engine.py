"""Runs a strategy on a prompt: meters it, seeds it, traces it, and turns what goes wrong into data."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

from structdecode.core import seeds
from structdecode.core.border import (
    GRACE,
    ForeignValueError,
    GivenUpError,
    check_timeout,
    checked_score,
    is_list,
    said,
    within,
)
from structdecode.core.budget import Budget, Meter
from structdecode.core.decoder import MeteredDecoder
from structdecode.core.errors import (
    BudgetSpent,
    ConfigError,
    PromptError,
    StrategyError,
    StructdecodeError,
)
from structdecode.core.labels import label_of
from structdecode.core.lifetimes import lifetimes
from structdecode.core.lookup import find_schema, load_backend
from structdecode.core.protocols import Backend, Strategy
from structdecode.core.reading import short_repr
from structdecode.core.results import Result, result_of
from structdecode.core.settings import build
from structdecode.core.trace import Observer, Trace
from structdecode.core.types import Prompt, Ranked, Schema

T = TypeVar("T")


async def adecode(
    prompt: Prompt | str,
    *,
    backend: Backend | str | os.PathLike[str],
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    seed: int = 0,
    sample_id: str = "",
    observer: Observer | None = None,
    verifier_timeout: float | None = None,
    trace_tokens: bool = False,
) -> Result:
    """Answers a prompt with a strategy.

    Args:
        prompt: a text is a question without a picture.
        backend: a path (or a model's name) is loaded for this one call; for more than one, load it once.
        budget: a mapping has the fields of `Budget`.
        schema: a schema or its name; None takes the strategy's own (``default_schema``), else ``llava-o1``.
        seed, sample_id: with the candidate's path and stage they decide every random choice.
        observer: called with each trace event as it happens.
        verifier_timeout: seconds after which a verifier's call counts as failed, its waiting for others' batches included:
            like ``Budget(seconds=)``, a clock, which company may slow.
        trace_tokens: whether the trace has each token's text and log-probability, which makes it two to five times
            as large; a backend that has no `token_texts` leaves them out.

    Raises:
        StructdecodeError: a mistake in what was given; nothing that goes wrong during the search raises.
    """
    prompt, limits = prompt_of(prompt), _budget(budget)
    seed, sample_id = seeds.checked(seed), str(sample_id)
    verifier_timeout = check_timeout(verifier_timeout, "verifier_timeout")
    _check_flag("trace_tokens", trace_tokens)
    if observer is not None and not callable(observer):
        raise ConfigError(f"an observer is a function of an event, not {short_repr(observer)}")
    search = _strategy(strategy)
    schema = _schema(schema, search).for_prompt(prompt)
    meter = Meter(limits)
    with _ready(backend) as model:
        header = {
            "question": prompt.question, "images": [p.digest for p in prompt.images], "schema": schema.name,
            "stages": [s.name for s in schema.stages], "strategy": short_repr(search, 100_000), "backend": model.name,
            "seed": seed, "sample_id": sample_id, **_asked_by(model),
        }  # fmt: skip
        trace = Trace(
            header, observer=observer, token_texts=getattr(model, "token_texts", None) if trace_tokens else None
        )
        async with lifetimes() as open_verifiers, model.open(schema.ask(prompt)) as session:
            decoder = MeteredDecoder(
                prompt, schema, session, meter, trace, (seed, sample_id), verifier_timeout, open_verifiers
            )
            try:
                ranked = _ranking(await _found(search, schema, decoder, meter), search, decoder)
            except BudgetSpent:
                ranked = decoder.best_so_far()
            finally:
                await decoder.stop()
    return result_of(ranked, prompt, schema, meter, trace, seed)


def prompt_of(given: Any) -> Prompt:
    """A prompt, or a text as one. Raises `PromptError` for anything else."""
    if isinstance(given, str):
        return Prompt(given)
    if not isinstance(given, Prompt):
        raise PromptError(f'a prompt is a Prompt, not {short_repr(given)}: Prompt("What is it?", [picture])')
    return given


def _budget(given: Any) -> Budget:
    if isinstance(given, Mapping):
        unknown = next((name for name in given if name not in {f.name for f in fields(Budget)}), None)
        if unknown is not None:
            known = ", ".join(f.name for f in fields(Budget))
            raise ConfigError(f"budget: unknown limit {short_repr(unknown)}; it has {known}")
        return Budget(**given)
    if given is not None and not isinstance(given, Budget):
        raise ConfigError(f"a budget is a Budget, not {short_repr(given)}: Budget(tokens=2000)")
    return given or Budget()


@contextmanager
def _ready(backend: Any) -> Iterator[Backend]:
    """A backend as it was given; of a path, one that is loaded for as long as it is asked."""
    if isinstance(backend, str | os.PathLike):
        with load_backend(os.fspath(backend)) as loaded:  # type: ignore[attr-defined]
            yield loaded
        return
    if not hasattr(backend, "open"):
        raise ConfigError(
            f"a backend is an object such as TransformersBackend.load(...), or a checkpoint's path, not "
            f"{short_repr(backend)}"
        )
    yield backend


def _strategy(given: Any) -> Strategy:
    search: Strategy = build("strategies", given) if isinstance(given, str) else given
    if isinstance(search, type) or not callable(search):
        raise ConfigError(f"a strategy is a name or an object such as BestOfN(n=4), not {short_repr(search)}")
    return search


def _schema(given: Any, search: Strategy) -> Schema:
    if isinstance(given, Schema):
        return given
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"a schema is a Schema, a name or None, not {short_repr(given)}")
    return find_schema(given or str(getattr(search, "default_schema", "llava-o1")))


def _check_flag(name: str, given: Any) -> None:
    if not isinstance(given, bool):
        raise ConfigError(f"{name} must be true or false, not {short_repr(given)}")


def _name(search: Any) -> str:
    return getattr(search, "__name__", None) or label_of(search)


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
            f"strategy {_name(search)} gave back {short_repr(wrong, 80)}: it is to give a list of Ranked, best "
            "first (structdecode.rank makes one of candidates and scores)"
        )
    foreign = next((r for r in found if not decoder.made(r)), None)
    if foreign is not None:
        raise StrategyError(
            f"strategy {_name(search)} gave back a candidate that its decoder never made "
            f"({short_repr(foreign.candidate, 80)}): it is to rank what `extend` returned, as it is"
        )
    try:
        return [replace(ranked, score=checked_score(ranked.score)) for ranked in found]
    except ForeignValueError as error:
        raise StrategyError(f"strategy {_name(search)} ranked by what is no score: {error}") from None


def _asked_by(backend: Backend) -> dict[str, Any]:
    """What the checkpoint itself asks of decoding (repetition penalty and the like), where it does."""
    found = getattr(backend, "constraints", None)
    return {"generation_config": dict(found)} if found else {}


@dataclass(frozen=True)
class _Listener:
    hear: Observer
    wants_tokens: bool

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.hear(event)


async def astream(
    prompt: Prompt | str,
    *,
    backend: Backend | str | os.PathLike[str],
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    seed: int = 0,
    sample_id: str = "",
    verifier_timeout: float | None = None,
    tokens: bool = False,
) -> AsyncGenerator[Mapping[str, Any], None]:
    """The events of a search as they happen; see `Trace`. The last one is the result's.

    A slow consumer holds nothing up, and one that stops ends the search. Arguments and errors are those of `adecode`.

    Args:
        tokens: whether text comes while it is written, too.
    """
    _check_flag("tokens", tokens)
    events: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
    observer = _Listener(events.put_nowait, tokens)

    async def search() -> None:
        try:
            await adecode(
                prompt, backend=backend, strategy=strategy, schema=schema, budget=budget, seed=seed,
                sample_id=sample_id, observer=observer, verifier_timeout=verifier_timeout,
            )  # fmt: skip
        finally:
            events.put_nowait(None)

    task = asyncio.ensure_future(search())
    try:
        while (event := await events.get()) is not None:
            yield event
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def decode(
    prompt: Prompt | str,
    *,
    backend: Backend | str | os.PathLike[str],
    strategy: Strategy | str = "staged",
    schema: Schema | str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    seed: int = 0,
    sample_id: str = "",
    observer: Observer | None = None,
    verifier_timeout: float | None = None,
    trace_tokens: bool = False,
) -> Result:
    """`adecode` for synchronous code; also works where an event loop is running already (notebooks)."""
    return run_sync(
        adecode(
            prompt, backend=backend, strategy=strategy, schema=schema, budget=budget, seed=seed, sample_id=sample_id,
            observer=observer, verifier_timeout=verifier_timeout, trace_tokens=trace_tokens,
        )
    )  # fmt: skip


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
