"""Runs a strategy on a prompt: meters it, seeds it, traces it, and turns what goes wrong into data."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from structdecode import registry, seeds
from structdecode.budget import Budget, Meter, Usage
from structdecode.errors import BudgetSpent, ConfigError
from structdecode.protocols import Backend, Row, Session, Strategy, Verifier
from structdecode.trace import Observer, Trace
from structdecode.types import Candidate, Path, Prompt, Ranked, Sampling, Schema, Score, Span, Stage, rank

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What a search found and what it cost.

    Attributes:
        answer: the visible stages' text of the best candidate; empty where none got that far.
        best: the best candidate, None if not one span was written.
        candidates: all that the strategy ranked, best first.
        usage: everything together; ``usage_by_part`` the generator's and the verifier's shares.
        stopped_by: the limit that ended the search, None if it ended by itself.
    """

    answer: str
    best: Candidate | None
    candidates: tuple[Ranked, ...]
    usage: Usage
    usage_by_part: dict[str, Usage]
    trace: Trace = field(repr=False)
    stopped_by: str | None
    seed: int

    @property
    def stages(self) -> dict[str, str]:
        return dict(self.best.stages) if self.best else {}


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
    search: Strategy = registry.build("strategies", strategy) if isinstance(strategy, str) else strategy
    schema = _resolve_schema(schema, search).for_prompt(prompt)
    meter = Meter(budget or Budget())
    header = {
        "question": prompt.question, "images": [p.digest for p in prompt.images], "schema": schema.name,
        "stages": [s.name for s in schema.stages], "strategy": repr(search), "backend": backend.name,
        "seed": seed, "sample_id": sample_id,
    }  # fmt: skip
    trace = Trace(header, observer=observer)
    async with backend.open(schema.ask(prompt)) as session:
        decoder = _Decoder(prompt, schema, session, meter, trace, (seed, sample_id), verifier_timeout)
        try:
            ranked = list(await search(schema, decoder))
        except BudgetSpent:
            ranked = decoder.salvage()
    return _result(ranked, schema, meter, trace, seed)


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
    """Decodes many prompts at once; yields ``(index, result)`` as they finish.

    A result does not depend on the others: the sample id (default: the index) is part of every seed.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, not {concurrency}")
    ids = list(sample_ids) if sample_ids is not None else [str(i) for i in range(len(prompts))]
    places = asyncio.Semaphore(concurrency)

    async def one(index: int) -> tuple[int, Result]:
        async with places:
            return index, await adecode(prompts[index], backend=backend, sample_id=ids[index], **options)

    tasks = [asyncio.ensure_future(one(index)) for index in range(len(prompts))]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()


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


def _resolve_schema(schema: Schema | str | None, strategy: Strategy) -> Schema:
    if isinstance(schema, Schema):
        return schema
    found = registry.load("schemas", schema or str(getattr(strategy, "default_schema", "llava-o1")))
    if not isinstance(found, Schema):
        raise ConfigError(f"schema {schema!r} is a {type(found).__name__}, not a Schema")
    return found


def _result(ranked: list[Ranked], schema: Schema, meter: Meter, trace: Trace, seed: int) -> Result:
    best = ranked[0].candidate if ranked and ranked[0].candidate.spans else None
    usage = meter.usage
    result = Result(
        answer=best.answer(schema) if best else "", best=best, candidates=tuple(ranked), usage=usage,
        usage_by_part={str(k): v for k, v in meter.parts.items()}, trace=trace, stopped_by=meter.stopped_by, seed=seed,
    )  # fmt: skip
    trace.add(
        "result", ranking=[list(r.candidate.path) for r in ranked], answer=result.answer,
        usage=usage.as_dict(), usage_by_part={k: v.as_dict() for k, v in meter.parts.items()},
        stopped_by=result.stopped_by,
    )  # fmt: skip
    return result


class _Decoder:
    """The strategy's only handle on the world."""

    def __init__(
        self,
        prompt: Prompt,
        schema: Schema,
        session: Session,
        meter: Meter,
        trace: Trace,
        seed: tuple[int, str],
        verifier_timeout: float | None,
    ) -> None:
        self.prompt, self.root = prompt, Candidate()
        self.rng = np.random.default_rng(seeds.derive(*seed, "strategy"))
        self._schema, self._session, self._meter, self._trace = schema, session, meter, trace
        self._seed, self._timeout = seed, verifier_timeout
        self._children: dict[Path, int] = defaultdict(int)
        self._made: list[Candidate] = []
        self._scores: dict[Path, Score] = {}

    @property
    def remaining(self) -> Budget:
        return self._meter.remaining

    async def extend(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        *,
        n: int = 1,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
    ) -> list[Candidate]:
        if n < 1:
            raise ConfigError(f"n must be at least 1, not {n}")
        parents = [candidate for candidate in candidates for _ in range(n)]
        if not parents:
            return []
        sampling = sampling or stage.sampling
        choices = [self._next_choice(parent) for parent in parents]
        limits = self._meter.reserve(len(parents), sampling.max_tokens)
        rows = [
            Row(parent, seeds.derive(*self._seed, (*parent.path, choice), stage.name), limit)
            for parent, choice, limit in zip(parents, choices, limits, strict=True)
            if limit > 0
        ]
        used = Usage()
        try:
            work = await self._session.extend(
                rows, stage, sampling=sampling, force_begin=self._schema.force_begin,
                separator=self._schema.separator, stops=stops, deadline=self._meter.deadline, admit=self._meter.admit,
            )  # fmt: skip
            used = work.usage
        finally:
            self._meter.settle(sum(limits), used, "generator")
        kept = [(parent, choice) for parent, choice, limit in zip(parents, choices, limits, strict=True) if limit > 0]
        children = [parent.extended(span, choice) for (parent, choice), span in zip(kept, work.value, strict=True)]
        self._note_cut(children, rows, sampling)
        for child in children:
            self._made.append(child)
            self._trace.add_candidate(child)
        return children

    def _next_choice(self, parent: Candidate) -> int:
        self._children[parent.path] += 1
        return self._children[parent.path] - 1

    def _note_cut(self, children: list[Candidate], rows: list[Row], sampling: Sampling) -> None:
        """Remembers which limit cut a span short, if it was the budget and not the stage's own."""
        for child, row in zip(children, rows, strict=True):
            span = child.spans[-1]
            if span.finish_reason == "length" and len(span.token_ids) < sampling.max_tokens:
                limit = "tokens" if len(span.token_ids) >= row.max_tokens else self._meter.late
                self._meter.stopped_by = self._meter.stopped_by or limit

    async def score(self, verifier: Verifier, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        name = verifier_name(verifier)
        scores = await self._ask(verifier, name, list(candidates))
        for candidate, score in zip(candidates, scores, strict=True):
            self._scores[candidate.path] = score
        self._trace.add_scores(name, [c.path for c in candidates], scores)
        return scores

    async def _ask(self, verifier: Verifier, name: str, candidates: list[Candidate]) -> list[Score]:
        """The border: whatever a verifier does, one finite or absent score a candidate comes back."""
        calls = self._meter.remaining.verifier_calls
        asked = candidates if calls is None else candidates[:calls]
        if len(asked) < len(candidates):
            self._meter.stopped_by = self._meter.stopped_by or "verifier_calls"
        late = [Score.unscored("budget spent: verifier_calls")] * (len(candidates) - len(asked))
        if not asked:
            return late
        self._meter.charge(Usage(verifier_calls=len(asked)), "verifier")
        model = _Model(self._session, self._meter, self._seed)
        try:
            scores = await asyncio.wait_for(verifier.score(self.prompt, asked, model), self._timeout)
        except BudgetSpent as spent:
            return [Score.unscored(f"budget spent: {spent.limit}")] * len(candidates)
        except TimeoutError:
            return self._failed(name, f"no score within {self._timeout} s", candidates)
        except Exception as error:
            return self._failed(name, f"{type(error).__name__}: {error}", candidates)
        if not isinstance(scores, Sequence) or len(scores) != len(asked):
            got = len(scores) if isinstance(scores, Sequence) else type(scores).__name__
            return self._failed(name, f"{len(asked)} candidates, but {got} scores", candidates)
        return [self._checked(name, score) for score in scores] + late

    def _checked(self, name: str, score: Any) -> Score:
        if not isinstance(score, Score):
            return self._failed(name, f"not a Score: {score!r}", [self.root])[0]
        if score.value is not None and not math.isfinite(score.value):
            return self._failed(name, f"score {score.value} is not finite", [self.root])[0]
        return score

    def _failed(self, name: str, error: str, candidates: list[Candidate]) -> list[Score]:
        self._trace.add("failure", verifier=name, error=error)
        return [Score.unscored(f"{name} failed: {error}")] * len(candidates)

    def salvage(self) -> list[Ranked]:
        """What there is when the budget ends a strategy: finished answers first, then those that got furthest."""
        finished = [c for c in self._made if c.finished(self._schema)]
        furthest = max((len(c.stages) for c in self._made), default=0)
        chosen = finished or [c for c in self._made if len(c.stages) == furthest]
        return rank(chosen, [self._scores.get(c.path, Score.unscored("budget spent")) for c in chosen])


def verifier_name(verifier: object) -> str:
    """The name a verifier goes by: its registered one, else its class's."""
    return registry.name_of("verifiers", type(verifier)) or type(verifier).__name__


class _Model:
    """`Model` over a session: a verifier's questions, charged to the verifier."""

    def __init__(self, session: Session, meter: Meter, seed: tuple[int, str]) -> None:
        self._session, self._meter, self._seed = session, meter, seed

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        limits = self._meter.reserve(n, sampling.max_tokens)
        digests = [picture.digest for picture in prompt.images]
        rows = [
            Row(Candidate(), seeds.derive(*self._seed, "verifier", prompt.question, digests, i), limit)
            for i, limit in enumerate(limits)
            if limit > 0
        ]
        used = Usage()
        try:
            async with self._session.open(prompt) as session:
                work = await session.extend(
                    rows,
                    Stage("REPLY"),
                    sampling=sampling,
                    stops=stop,
                    deadline=self._meter.deadline,
                    admit=self._meter.admit,
                )
            used = work.usage
        finally:
            self._meter.settle(sum(limits), used, "verifier")
        return work.value

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        self._meter.hold_call()
        used = Usage()
        try:
            async with self._session.open(prompt) as session:
                work = await session.log_probs(continuations, admit=self._meter.admit)
            used = work.usage
        finally:
            self._meter.settle(0, used, "verifier")
        return work.value
