"""What a strategy is handed: the engine's side of `Decoder`, where every call is metered, seeded and traced."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile
from typing import Any

import numpy as np

from structdecode.core import seeds
from structdecode.core.asked import KeptSessions
from structdecode.core.asking import MeteredModel, OpenCalls, check_rows
from structdecode.core.border import ForeignValueError, GivenUpError, checked_score, is_list, said, scores_of, within
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.errors import BudgetSpent, ConfigError, StrategyError
from structdecode.core.labels import label_of
from structdecode.core.lifetimes import Lifetimes
from structdecode.core.protocols import ForcedText, GenerationRequest, MakeProcessor, Row, Session, Verifier
from structdecode.core.trace import Trace
from structdecode.core.types import (
    Candidate,
    NextToken,
    Path,
    Prompt,
    Ranked,
    Sampling,
    Schema,
    Score,
    Span,
    Stage,
    rank,
    twins,
)
from structdecode.core.visible import is_whole


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
        lifetimes: Lifetimes,
    ) -> None:
        self._lifetimes = lifetimes
        self.prompt, self.root = prompt, Candidate()
        self.rng = np.random.default_rng(seeds.derive(*seed, "strategy"))
        self._schema, self._session, self._meter, self._trace = schema, session, meter, trace
        self._seed, self._timeout = seed, verifier_timeout
        self._children: dict[Path, int] = defaultdict(int)
        self._made: dict[Path, Candidate] = {}
        self._views: list[dict[Path, Candidate]] = []  # what was made under other prompts
        self._left = asyncio.Event()  # set when this is a view that was left
        self._held: list[Candidate] = []  # made here and not released yet
        self._outer: MeteredDecoder | None = None  # the search that this one is inside of, in the same session
        self._inner: list[MeteredDecoder] = []  # those inside of it, in the same session
        self._scores: dict[Path, Score] = {}
        self._calls, self._kept = OpenCalls(), KeptSessions()

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
        leave_open: bool = False,
        processors: Sequence[MakeProcessor] = (),
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> list[Candidate]:
        places = await self._places(candidates, stage, n)
        request = self._request(
            stage,
            sampling,
            stops=stops,
            leave_open=leave_open,
            processors=processors,
            prefix_log_probs=prefix_log_probs,
            hidden_layers=hidden_layers,
        )
        if len(places) < len(candidates) * n:
            self._meter.stopped_by = self._meter.stopped_by or "tokens"
        return await self._grown(places, request)

    async def as_finished(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        *,
        n: int = 1,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
        leave_open: bool = False,
        processors: Sequence[MakeProcessor] = (),
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> AsyncGenerator[Candidate, None]:
        places = await self._places(candidates, stage, n)
        request = self._request(
            stage,
            sampling,
            stops=stops,
            leave_open=leave_open,
            processors=processors,
            prefix_log_probs=prefix_log_probs,
            hidden_layers=hidden_layers,
        )
        tasks = [asyncio.ensure_future(self._grown([place], request)) for place in places]
        try:
            for finished in asyncio.as_completed(tasks):
                for child in await finished:
                    yield child
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def force(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        texts: Sequence[ForcedText],
        *,
        leave_open: bool = False,
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> list[Candidate]:
        if len(texts) != len(candidates):
            raise ConfigError(f"{len(candidates)} candidates, but {len(texts)} texts to put in")
        if any(_is_empty(text) for text in texts):
            raise ConfigError(f"stage {stage.name!r}: there is no text to put in")
        await self._check_places(candidates, stage)
        if not candidates:
            return []
        places = [(parent, self._next_choice(parent)) for parent in candidates]
        request = self._request(
            stage, None, leave_open=leave_open, prefix_log_probs=prefix_log_probs, hidden_layers=hidden_layers
        )
        with self._meter.call("generator") as call:
            work = await self._calls.run(self._session.force(candidates, texts, request, account=call))
        return self._added(places, work.value, stage)

    async def next_tokens(self, candidates: Sequence[Candidate], stage: Stage, k: int) -> list[list[NextToken]]:
        check_rows(k, "k")
        await self._check_places(candidates, stage)
        if not candidates:
            return []
        with self._meter.call("generator") as call:
            asked = self._session.next_tokens(candidates, self._request(stage, None), k, account=call)
            return (await self._calls.run(asked)).value

    async def _places(self, candidates: Sequence[Candidate], stage: Stage, n: int) -> list[tuple[Candidate, int]]:
        """Where the next children come: parent and number, no more than the budget can pay a token each."""
        check_rows(n)
        await self._check_places(candidates, stage)
        room = self._meter.remaining.tokens
        most = len(candidates) * n if room is None else max(1, room)
        parents = islice((c for c in candidates for _ in range(n)), most)
        return [(parent, self._next_choice(parent)) for parent in parents]

    async def _grown(self, places: Sequence[tuple[Candidate, int]], request: GenerationRequest) -> list[Candidate]:
        """The children at these places, as far as the budget goes."""
        if not places:
            return []
        stage, sampling = request.stage, request.sampling
        self._trace.tell("stage", stage=stage.name, paths=[[*parent.path, choice] for parent, choice in places])
        with self._meter.call("generator", len(places), sampling.max_tokens) as call:
            kept = [(*place, limit) for place, limit in zip(places, call.limits, strict=True) if limit > 0]
            rows = [self._row(*place, request) for place in kept]
            work = await self._calls.run(self._session.extend(rows, request, account=call))
        self._note_cut(work.value, rows, len(places), sampling)
        return self._added([(parent, choice) for parent, choice, _ in kept], work.value, stage)

    def _row(self, parent: Candidate, choice: int, limit: int, request: GenerationRequest) -> Row:
        path, stage = (*parent.path, choice), request.stage.name
        return Row(parent, seeds.derive(*self._seed, path, stage), limit, self._trace.watching(path, stage), path)

    def _added(self, places: Sequence[tuple[Candidate, int]], spans: Sequence[Span], stage: Stage) -> list[Candidate]:
        grown = [parent.extended(span, choice) for (parent, choice), span in zip(places, spans, strict=True)]
        children = [self._judged(child, stage) for child in grown]
        for child in children:
            self._made[child.path] = child
            self._held.append(child)
            self._trace.add_candidate(child)
        return children

    async def _check_places(self, candidates: Sequence[Candidate], stage: Stage) -> None:
        if self._left.is_set():
            raise StrategyError(f"the view on {self.prompt.question!r} was left: use it inside of its `async with`")
        for candidate in candidates:
            self._check_place(candidate, stage)
        if self._meter.deadline_passed:
            await asyncio.sleep(0)  # who takes no notice of `BudgetSpent` can be given up here

    def _check_place(self, candidate: Candidate, stage: Stage) -> None:
        """No stage of the schema is written where one that has to come before it is missing."""
        before = list(takewhile(lambda other: other.name != stage.name, self._schema.stages))
        if len(before) == len(self._schema.stages):
            return  # a stage of the strategy's own
        missing = next((s.name for s in before if not s.optional and s.name not in candidate.stages), None)
        if missing is not None:
            raise StrategyError(
                f"stage {stage.name!r} was asked for behind {candidate.last_stage or 'the root'}, without {missing!r} "
                "before it: extend candidates that have it. To run a strategy for the rest of a schema from a "
                "candidate, give it `decoder.at(candidate)`"
            )

    def _judged(self, child: Candidate, stage: Stage) -> Candidate:
        """Malformed where a visible stage's text holds another stage."""
        if is_whole(self._schema, stage, child.stages[stage.name]):
            return child
        return Candidate((*child.spans[:-1], replace(child.spans[-1], finish_reason="invalid")), child.path)

    def _request(self, stage: Stage, sampling: Sampling | None, **more: Any) -> GenerationRequest:
        """``more``: fields of the request that are the strategy's to say."""
        return GenerationRequest(
            stage, sampling or stage.sampling, self._schema.force_begin, self._schema.separator,
            deadline=self._meter.deadline, **more,
        )  # fmt: skip

    # ------------------------------------------------------------------ searches inside the search
    def at(self, candidate: Candidate) -> MeteredDecoder:
        inside = self._inside(candidate, self._session, "strategy", candidate.path)
        inside._outer = self
        self._inner.append(inside)
        return inside

    @asynccontextmanager
    async def view(self, prompt: Prompt) -> AsyncIterator[MeteredDecoder]:
        digests = [picture.digest for picture in prompt.images]
        self._trace.add("view", question=prompt.question, images=digests)
        async with self._session.open(self._schema.ask(prompt)) as session:
            view = self._inside(Candidate(), session, "view", prompt.question, digests)
            view.prompt = prompt
            view._made, view._left = {}, asyncio.Event()
            self._views.append(view._made)
            try:
                yield view
            finally:
                view._left.set()

    def _inside(self, root: Candidate, session: Session, *seed: object) -> MeteredDecoder:
        """A decoder of the same search that holds nothing yet."""
        inside = copy.copy(self)
        inside.root, inside._session = root, session
        inside.rng = np.random.default_rng(seeds.derive(*self._seed, *seed))
        inside._held, inside._inner, inside._outer = [], [], None
        return inside

    def keep(self, candidates: Sequence[Candidate]) -> None:
        kept = {candidate.token_ids for candidate in candidates}
        dropped = self._let_go(kept)
        if dropped:
            self._trace.add("keep", kept=[list(c.path) for c in candidates], pruned=[list(c.path) for c in dropped])
        top = self
        while top._outer is not None:
            top = top._outer
        held = {candidate.token_ids for candidate in top._all_held()}
        self._session.release([candidate for candidate in dropped if candidate.token_ids not in held])

    def _let_go(self, kept: Container[tuple[int, ...]]) -> list[Candidate]:
        """Holds no others from now on, nor do the searches inside this one. Those that are held no more."""
        dropped = [candidate for candidate in self._held if candidate.token_ids not in kept]
        self._held = [candidate for candidate in self._held if candidate.token_ids in kept]
        return dropped + [c for inside in self._inner for c in inside._let_go(kept)]

    def _all_held(self) -> list[Candidate]:
        return self._held + [candidate for inside in self._inner for candidate in inside._all_held()]

    def _next_choice(self, parent: Candidate) -> int:
        self._children[parent.path] += 1
        return self._children[parent.path] - 1

    def _note_cut(self, spans: Sequence[Span], rows: Sequence[Row], asked: int, sampling: Sampling) -> None:
        """Remembers which limit cut a span short, if it was the budget and not the stage's own."""
        if len(spans) < asked:
            self._meter.stopped_by = self._meter.stopped_by or "tokens"
        for span, row in zip(spans, rows, strict=True):
            if span.finish_reason == "length" and len(span.token_ids) < sampling.max_tokens:
                limit = "tokens" if len(span.token_ids) >= row.max_tokens else self._meter.deadline_passed
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
        left = self._meter.remaining.seconds
        limit = min((s for s in (left, self._timeout) if s is not None), default=None)
        try:
            with self._meter.working("verifier"):
                await within(partial(self._lifetimes.enter, verifier), left)
                async with MeteredModel(self._session, self._meter, self._seed, self._kept) as model:
                    scores = await scores_of(verifier, self.prompt, asked, model, limit)
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
        return any(
            made.get(ranked.candidate.path) == ranked.candidate and all(path in made for path in ranked.paths)
            for made in (self._made, *self._views)
        )

    async def stop(self) -> None:
        """Ends what is still under way, all of which is billed then, and frees what verifiers have open."""
        await self._calls.stop()
        await self._kept.close()

    def best_so_far(self) -> list[Ranked]:
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
        return replace(score, fallback=replace(nearest, reason=f"{score.reason}; the score of its prefix"))


def _is_empty(text: ForcedText) -> bool:
    return not ((text.token_ids or text.suffix_ids) if isinstance(text, Span) else text)


def verifier_name(verifier: object) -> str:
    """The name that a verifier goes by: its registered one, a function's own, else its class's."""
    return label_of(verifier)
