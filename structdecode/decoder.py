"""What a strategy is handed: the engine's side of `Decoder` and `Model`, where every call is metered, seeded and traced."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile
from typing import Any, TypeVar

import numpy as np

from structdecode import registry, seeds
from structdecode.border import (
    GRACE,
    ForeignValueError,
    GivenUpError,
    check_counts,
    checked_score,
    is_async,
    is_list,
    said,
    within,
)
from structdecode.budget import Budget, Meter, Usage
from structdecode.errors import BudgetSpent, ConfigError, StrategyError
from structdecode.protocols import GenerationRequest, Row, Session, Verifier
from structdecode.trace import Trace
from structdecode.types import Candidate, Path, Prompt, Ranked, Sampling, Schema, Score, Span, Stage, rank, twins
from structdecode.visible import is_whole

T = TypeVar("T")

MOST_ROWS = 1_000_000
"""Candidates that one call of `extend` may ask for, each."""


class MeteredDecoder:
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
        self._made: dict[Path, Candidate] = {}
        self._held: list[Candidate] = []  # not released yet
        self._scores: dict[Path, Score] = {}
        self._calls = OpenCalls()

    @property
    def remaining(self) -> Budget:
        return self._meter.remaining

    @property
    def resolution(self) -> float:
        return self._session.resolution

    async def extend(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        *,
        n: int = 1,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
    ) -> list[Candidate]:
        if not isinstance(n, int) or not 1 <= n <= MOST_ROWS:
            raise ConfigError(f"n must be a whole number from 1 to {MOST_ROWS:,}, not {n!r}")
        for candidate in candidates:
            self._check_place(candidate, stage)
        if self._meter.late:
            await asyncio.sleep(0)  # who takes no notice of `BudgetSpent` can be given up here
        asked = len(candidates) * n
        room = self._meter.remaining.tokens
        parents = list(islice((c for c in candidates for _ in range(n)), asked if room is None else max(1, room)))
        if not parents:
            return []
        sampling = sampling or stage.sampling
        choices = [self._next_choice(parent) for parent in parents]
        with self._meter.call("generator", len(parents), sampling.max_tokens) as call:
            limits = call.limits
            rows = [
                Row(parent, seeds.derive(*self._seed, (*parent.path, choice), stage.name), limit)
                for parent, choice, limit in zip(parents, choices, limits, strict=True)
                if limit > 0
            ]
            work = await self._calls.run(
                self._session.extend(rows, self._request(stage, sampling, stops), account=call)
            )
        kept = [(parent, choice) for parent, choice, limit in zip(parents, choices, limits, strict=True) if limit > 0]
        children = [parent.extended(span, choice) for (parent, choice), span in zip(kept, work.value, strict=True)]
        self._note_cut(children, rows, asked, sampling)
        children = [self._judged(child, stage) for child in children]
        for child in children:
            self._made[child.path] = child
            self._held.append(child)
            self._trace.add_candidate(child)
        return children

    def _check_place(self, candidate: Candidate, stage: Stage) -> None:
        """No stage of the schema is written where one that has to come before it is missing."""
        before = list(takewhile(lambda other: other.name != stage.name, self._schema.stages))
        if len(before) == len(self._schema.stages):
            return  # a stage of the strategy's own
        missing = next((s.name for s in before if not s.optional and s.name not in candidate.stages), None)
        if missing is not None:
            raise StrategyError(
                f"stage {stage.name!r} was asked for behind {candidate.last_stage or 'the root'}, without {missing!r} "
                "before it: extend candidates that have it. The built-in strategies start at `Decoder.root`, so they "
                "cannot go on from a candidate with the rest of a schema"
            )

    def _judged(self, child: Candidate, stage: Stage) -> Candidate:
        """Malformed where a visible stage's text holds another stage."""
        if is_whole(self._schema, stage, child.stages[stage.name]):
            return child
        return Candidate((*child.spans[:-1], replace(child.spans[-1], finish_reason="invalid")), child.path)

    def _request(self, stage: Stage, sampling: Sampling, stops: Sequence[str]) -> GenerationRequest:
        schema = self._schema
        return GenerationRequest(stage, sampling, schema.force_begin, schema.separator, stops, self._meter.deadline)

    def keep(self, candidates: Sequence[Candidate]) -> None:
        kept = {candidate.token_ids for candidate in candidates}
        dropped = [candidate for candidate in self._held if candidate.token_ids not in kept]
        self._held = [candidate for candidate in self._held if candidate.token_ids in kept]
        self._session.release(dropped)

    def _next_choice(self, parent: Candidate) -> int:
        self._children[parent.path] += 1
        return self._children[parent.path] - 1

    def _note_cut(self, children: list[Candidate], rows: list[Row], asked: int, sampling: Sampling) -> None:
        """Remembers which limit cut a span short, if it was the budget and not the stage's own."""
        if len(children) < asked:
            self._meter.stopped_by = self._meter.stopped_by or "tokens"
        for child, row in zip(children, rows, strict=True):
            span = child.spans[-1]
            if span.finish_reason == "length" and len(span.token_ids) < sampling.max_tokens:
                limit = "tokens" if len(span.token_ids) >= row.max_tokens else self._meter.late
                self._meter.stopped_by = self._meter.stopped_by or limit

    async def score(self, verifier: Verifier, candidates: Sequence[Candidate]) -> list[Score]:
        if not candidates:
            return []
        name, groups = verifier_name(verifier), twins(candidates)
        found = await self._ask(verifier, name, [candidates[group[0]] for group in groups])
        self._meter.charge(Usage(verifier_calls_saved=len(candidates) - len(groups)), "verifier")
        of = {index: score for group, score in zip(groups, found, strict=True) for index in group}
        scores = [self._with_fallback(of[index], candidate.path) for index, candidate in enumerate(candidates)]
        for candidate, score in zip(candidates, scores, strict=True):
            self._scores[candidate.path] = score
        self._trace.add_scores(name, [c.path for c in candidates], scores, asked=len(groups))
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
        left, given = self._meter.remaining.seconds, list(asked)  # its own list: it may do with that what it likes
        limit = min((s for s in (left, self._timeout) if s is not None), default=None)
        try:
            with self._meter.working("verifier"):
                async with MeteredModel(self._session, self._meter, self._seed) as model:
                    call, plain = partial(verifier.score, self.prompt, given, model), not is_async(verifier.score)
                    began = time.monotonic()
                    scores = await within(call, limit, threaded=plain)
                    if limit is not None and time.monotonic() - began > limit + GRACE:
                        raise GivenUpError  # it blocked the event loop
        except BudgetSpent as spent:
            return [Score.unscored(f"budget spent: {spent.limit}")] * len(candidates)
        except GivenUpError:
            if self._timeout is None or (left is not None and left <= self._timeout):
                self._meter.stopped_by = self._meter.stopped_by or "seconds"
                return [Score.unscored("budget spent: seconds")] * len(candidates)
            return self._failed(name, f"no score within {self._timeout} s", candidates)
        except Exception as error:
            return self._failed(name, said(error), candidates)
        if not is_list(scores) or len(scores) != len(asked):
            got = len(scores) if is_list(scores) else type(scores).__name__
            return self._failed(name, f"{len(asked)} candidates, but {got} scores", candidates)
        return [self._checked(name, score) for score in scores] + late

    def _checked(self, name: str, score: Any) -> Score:
        try:
            found = checked_score(score)
        except ForeignValueError as error:
            return self._failed(name, str(error), [self.root])[0]
        return found if found.resolution is not None else replace(found, resolution=self.resolution)

    def _failed(self, name: str, error: str, candidates: list[Candidate]) -> list[Score]:
        self._trace.add("failure", verifier=name, error=error)
        return [Score.unscored(f"{name} failed: {error}")] * len(candidates)

    def made(self, ranked: Ranked) -> bool:
        """Whether a candidate and its other draws came from this decoder's `extend`, or it is the root."""
        if ranked.candidate == self.root:
            return True
        return self._made.get(ranked.candidate.path) == ranked.candidate and all(p in self._made for p in ranked.paths)

    async def stop(self) -> None:
        """Ends what is still under way; all of it is billed then."""
        await self._calls.stop()

    def salvage(self) -> list[Ranked]:
        """What there is when the budget ends a strategy: finished answers first, then those that got furthest.

        Best first, by the score of each or of the nearest of its ancestors that has one.
        """
        made = list(self._made.values())
        finished = [c for c in made if c.finished(self._schema)]
        furthest = max((len(c.stages) for c in made), default=0)
        chosen = finished or [c for c in made if len(c.stages) == furthest]
        scores = [
            self._scores.get(c.path) or self._with_fallback(Score.unscored("budget spent"), c.path) for c in chosen
        ]
        return rank(chosen, [score if score.scored else score.fallback or score for score in scores])

    def _with_fallback(self, score: Score, path: Path) -> Score:
        """An unscored candidate's with the score of its nearest ancestor that has one."""
        if score.scored:
            return score
        above = (self._scores.get(path[:length]) for length in range(len(path) - 1, 0, -1))
        nearest = next((found for found in above if found is not None and found.scored), None)
        if nearest is None:
            return score
        return replace(score, fallback=replace(nearest, reason=f"{score.reason}; the score of what it goes on from"))


def verifier_name(verifier: object) -> str:
    """The name that a verifier goes by: its registered one, a function's own, else its class's."""
    return registry.label_of(verifier)


class OpenCalls:
    """Calls of the model that are under way, so that none goes on when who asked for it is gone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def stop(self) -> None:
        """Cancels them and waits until they have ended."""
        open_ = list(self._tasks)
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)


class MeteredModel:
    """`Model` over a session: a verifier's questions, charged to the verifier. As a context it leaves none open."""

    def __init__(self, session: Session, meter: Meter, seed: tuple[int, str]) -> None:
        self._session, self._meter, self._seed = session, meter, seed
        self._calls = OpenCalls()

    async def __aenter__(self) -> MeteredModel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._calls.stop()

    @property
    def resolution(self) -> float:
        return self._session.resolution

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        if not isinstance(n, int) or not 1 <= n <= MOST_ROWS:
            raise ConfigError(f"n must be a whole number from 1 to {MOST_ROWS:,}, not {n!r}")
        digests = [picture.digest for picture in prompt.images]
        with self._meter.call("verifier", n, sampling.max_tokens) as call:
            rows = [
                Row(Candidate(), seeds.derive(*self._seed, "verifier", prompt.question, digests, i), limit)
                for i, limit in enumerate(call.limits)
                if limit > 0
            ]
            request = GenerationRequest(Stage("REPLY"), sampling, stops=stop, deadline=self._meter.deadline)

            async def ask() -> list[Span]:
                async with self._session.open(prompt) as session:
                    return (await session.extend(rows, request, account=call)).value

            return await self._calls.run(ask())

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        with self._meter.call("verifier") as call:

            async def ask() -> list[list[float]]:
                async with self._session.open(prompt) as session:
                    return (await session.log_probs(continuations, account=call)).value

            return await self._calls.run(ask())

    def charge(self, usage: Usage) -> None:
        check_counts(usage, Usage)
        self._meter.spend(usage, "verifier")
