"""The laws that plug-ins have to keep, as functions to call from a plug-in's own tests.

Each raises AssertionError with what was broken. They run on `ScriptedBackend`, so they need no model.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter, Tally, Usage
from structdecode.core.engine import decode
from structdecode.core.protocols import (
    UNMETERED,
    Backend,
    ForcedText,
    GenerationRequest,
    Model,
    Row,
    Strategy,
    Verifier,
)
from structdecode.core.results import Result
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Score, Span, Stage


def scripted(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    """A "model" whose text depends on the seed; one answer in five forgets to close a stage."""
    body = f" {stage.name.lower()} no. {seed % 7}. Is {seed % 3}."
    return body if seed % 5 == 0 else f"{body} {stage.end}"


def candidate(*texts: str, schema: Schema = LLAVA_O1, path: Sequence[int] = ()) -> Candidate:
    """A candidate with these stage texts, for tests of verifiers."""
    spans = [
        Span(s.name, t, tuple(range(len(t))), (-0.5,) * len(t), (1.0,) * len(t), raw=f"{s.begin} {t} {s.end}")
        for s, t in zip(schema.stages, texts, strict=False)
    ]
    return Candidate(tuple(spans), tuple(path) or tuple(0 for _ in spans))


class EchoModel:
    """A `Model` that answers with what a function of the question says, and notes what it is charged.

    A model that a verifier brings is really asked.
    """

    def __init__(self, reply: Callable[[str], str] = lambda question: "yes", budget: Budget | None = None) -> None:
        self.reply, self.asked = reply, list[Prompt]()
        self._meter = Meter(budget or Budget())
        self._others = MeteredModel(None, self._meter, (0, ""))

    @property
    def charged(self) -> Usage:
        """All that it was charged, but for the time."""
        return replace(self._meter.parts["verifier"], seconds=0.0)

    @property
    def resolution(self) -> float:
        return 0.0

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        self.asked.append(prompt)
        return [Span("REPLY", self.reply(prompt.question))] * n

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        self.asked.append(prompt)
        return [[-0.1 if text == self.reply(prompt.question) else -2.3] for text in continuations]

    async def read(
        self, prompt: Prompt, answers: Sequence[Sequence[ForcedText]], *, hidden_layers: Sequence[int] = ()
    ) -> list[list[Span]]:
        self.asked.append(prompt)
        return [[Span("ANSWER", str(piece), log_probs=(-0.1,)) for piece in answer] for answer in answers]

    def on(self, backend: Backend) -> Model:
        return self._others.on(backend)

    def charge(self, usage: Usage) -> None:
        self._others.charge(usage)


def check_verifier(
    verifier: Verifier, candidates: Sequence[Candidate] | None = None, model: Any = None, prompt: Prompt | None = None
) -> None:
    """One finite or absent score a candidate, the same again (to its `Score.resolution`) when asked again; nothing for
    nothing.

    ``prompt``: what the candidates answer, for verifiers that want a picture, options or a form of question.
    """
    given = list(candidates or [candidate("s", f"c {i}", f"r {i}", str(i), path=(0, 0, 0, i)) for i in range(4)])
    handle = model or EchoModel()
    asked = prompt or Prompt("How many red squares are there?")

    def ask() -> list[Score]:
        return list(asyncio.run(verifier.score(asked, given, handle)))

    scores = ask()
    assert len(scores) == len(given), f"{len(given)} candidates, but {len(scores)} scores"
    for score in scores:
        assert isinstance(score, Score), f"not a Score: {score!r}"
        assert score.value is None or math.isfinite(score.value), f"not finite: {score.value}"
        assert score.value is not None or score.reason, "an unscored candidate without a reason"
    assert all(map(_same, ask(), scores)), "another answer to the same question"
    assert list(asyncio.run(verifier.score(asked, [], handle))) == [], "scores for no candidates"


def _same(one: Score, other: Score) -> bool:
    if one.value is None or other.value is None:
        return one.value is other.value
    noise = (one.resolution or 0.0) * max(1.0, abs(one.value), abs(other.value))
    return abs(one.value - other.value) <= noise


def check_strategy(strategy: Strategy, schema: Schema = LLAVA_O1, backend: Backend | None = None) -> None:
    """Same seed, same result; no budget overshot, nothing lost; malformed stages do not end it."""
    model = backend or ScriptedBackend(scripted)
    prompt = Prompt("How many red squares are there?", [])

    def run(budget: Budget | None = None, seed: int = 0) -> Result:
        return decode(prompt, backend=model, strategy=strategy, schema=schema, budget=budget, seed=seed)

    free = run()
    assert free.best is not None and free.candidates, "no candidate without a budget"
    assert free.stopped_by is None, f"stopped by {free.stopped_by} without a budget"
    assert run().best == free.best, "another result from the same seed"
    contents = [r.candidate.content for r in free.candidates]
    assert len(set(contents)) == len(contents), "equal candidates are ranked more than once: use `rank`"
    whole = free.usage.generated_tokens
    for tokens in {0, 1, whole // 3, whole // 2, max(0, whole - 1)}:
        result = run(Budget(tokens=tokens))
        spent = result.usage.generated_tokens
        assert spent <= tokens, f"{spent} tokens generated with a budget of {tokens}"
        assert result.stopped_by is not None or tokens >= whole, "a spent budget is not reported"
        assert tokens == 0 or result.candidates, f"every candidate lost with a budget of {tokens} tokens"
    for calls in range(3):
        result = run(Budget(model_calls=calls))
        assert result.usage.model_calls <= calls, f"{result.usage.model_calls} model calls with a budget of {calls}"


def check_backend(backend: Backend, prompt: Prompt | None = None) -> None:
    """Rows are independent of their batch, limits hold, stages are closed, a prompt is prefilled once, all is charged."""
    asked = prompt or Prompt("How many red squares are there?")
    stage = Stage.tagged("CAPTION")
    sampling = Sampling(temperature=1.0, max_tokens=12)

    async def run() -> None:
        async with backend.open(asked) as session:
            rows = [Row(Candidate(), seed, 12) for seed in (5, 6, 7)]
            account = Tally(UNMETERED)
            together = await session.extend(rows, GenerationRequest(stage, sampling), account=account)
            assert account.usage == together.usage, f"charged {account.usage}, but used {together.usage}"
            again = await session.extend(rows[::-1], GenerationRequest(stage, sampling))
            assert together.usage.prefilled_tokens > 0, "prefilled tokens are not counted"
            assert again.usage.prefilled_tokens == 0, "the prompt was prefilled twice"
            spans = [_content(span) for span in together.value]
            assert spans == [_content(s) for s in again.value[::-1]], "a row depends on its place in the batch"
            alone = await session.extend(rows[1:2], GenerationRequest(stage, sampling))
            assert _content(alone.value[0]) == spans[1], "a row depends on the others in its batch"
            short = await session.extend([Row(Candidate(), 5, 2)], GenerationRequest(stage, sampling))
            assert len(short.value[0].token_ids) <= 2, "a token limit was overshot"
            for span in (*together.value, *short.value):
                assert span.raw.count(stage.end) >= 1, f"a stage was left open: {span.raw!r}"
                assert span.raw.startswith(stage.begin), f"no begin tag in front: {span.raw!r}"
                assert len(span.token_ids) == len(span.log_probs) == len(span.certainties), "statistics are missing"
            longer = Candidate().extended(together.value[0], 0)
            more = await session.extend([Row(longer, 1, 4)], GenerationRequest(Stage.tagged("REASONING"), sampling))
            assert more.usage.cached_tokens > 0, "nothing was taken from the cache"

    asyncio.run(run())


def _content(span: Span) -> tuple[object, ...]:
    return span.stage, span.text, span.token_ids, span.finish_reason, span.raw
