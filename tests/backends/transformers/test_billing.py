"""All work is billed, whatever becomes of who asked for it; no limit is overshot (law 5)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.sequences import TokenSequence
from structdecode.core import engine
from structdecode.core.budget import Budget, Meter
from structdecode.core.decoder import MeteredDecoder
from structdecode.core.lifetimes import Lifetimes
from structdecode.core.protocols import Decoder, Model
from structdecode.core.settings import build
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Prompt, Ranked, Sampling, Schema, Score, Stage
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.self_judge import SelfJudge
from tests.backends.transformers import tiny

SCHEMA = Schema("two", tuple(Stage.tagged(n, sampling=Sampling(temperature=1.2, max_tokens=6)) for n in "AB"))
LONG = Stage.tagged("A", sampling=Sampling(temperature=1.0, max_tokens=400))
SEARCHES = 500


@pytest.fixture(params=["slots", "plain"])
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    built = TransformersBackend(*tiny.build("mllama"), engine=request.param)
    built.codec.end_of_text = frozenset()
    return built


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each token that a row draws, counted where it is drawn: the meter has no part in it."""
    tokens: list[int] = []
    take = TokenSequence.take

    def counted(self: TokenSequence, token: int, *statistics: float) -> None:
        tokens.append(token)
        take(self, token, *statistics)

    monkeypatch.setattr(TokenSequence, "take", counted)
    return tokens


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> list[Meter]:
    """Of all searches, also of those that never come to a result."""
    made: list[Meter] = []

    class Kept(Meter):
        def __init__(self, budget: Budget) -> None:
            super().__init__(budget)
            made.append(self)

    monkeypatch.setattr(engine, "Meter", Kept)
    return made


def billed(meters: Sequence[Meter]) -> int:
    return sum(meter.usage.generated_tokens for meter in meters)


async def until(drawn: list[int], at_least: int) -> None:
    while len(drawn) < at_least:
        await asyncio.sleep(0.001)


def test_what_a_cancelled_call_drew_is_billed_and_its_rows_stop(
    backend: TransformersBackend, drawn: list[int], prompt: Prompt
) -> None:
    meter = Meter(Budget())

    async def run() -> int:
        async with backend.open(SCHEMA.ask(prompt)) as session:
            decoder = MeteredDecoder(prompt, SCHEMA, session, meter, Trace({}), (0, ""), None, Lifetimes())
            for _ in range(5):
                before = len(drawn)
                call = asyncio.ensure_future(decoder.extend([decoder.root], LONG, n=3))
                await until(drawn, before + 12)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert meter.usage.generated_tokens == len(drawn) > before
            at_the_end = len(drawn)
            await asyncio.sleep(0.1)
            return at_the_end

    assert asyncio.run(run()) == len(drawn) < 5 * 3 * 400
    assert meter.remaining == Budget(), "something is still reserved"
    assert meter.usage.model_calls == 5 and meter.usage.prefilled_tokens > 0


@dataclass(frozen=True)
class Slow:
    """Asks the model for more than there is time for, in several calls at once."""

    calls: int = 2

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        sampling = Sampling(temperature=1.0, max_tokens=5000)
        questions = [Prompt(f"{prompt.question} {i}", prompt.images) for i in range(self.calls)]
        await asyncio.gather(*(model.complete(question, sampling=sampling) for question in questions))
        return [Score(0.0)] * len(candidates)


def test_what_a_timed_out_verifier_drew_is_in_the_result(
    backend: TransformersBackend, drawn: list[int], prompt: Prompt
) -> None:
    strategy = build("strategies", "best-of-n", {"n": 2, "verifier": Slow()})
    result = sd.decode(prompt, backend=backend, schema=SCHEMA, strategy=strategy, verifier_timeout=0.3)
    verifier = result.usage_by_part["verifier"]
    assert [failure["error"] for failure in result.trace.failures] == ["no score within 0.3 s"]
    assert result.usage.generated_tokens == len(drawn)
    assert verifier.generated_tokens > 0 and verifier.seconds >= 0.3
    assert verifier.model_calls == (2 if backend.engine == "slots" else 1), "the plain engine takes one at a time"
    assert 0 < result.usage_by_part["generator"].seconds < result.usage.seconds


def test_calls_that_a_failing_verifier_leaves_behind_are_ended_and_billed(
    backend: TransformersBackend, drawn: list[int], prompt: Prompt
) -> None:
    """`gather` raises with the first error and lets the other calls go on."""

    class Hasty:
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            async def fail() -> None:
                await until(drawn, begun + 5)
                raise ValueError("no more")

            begun = len(drawn)
            long = model.complete(Prompt("?"), sampling=Sampling(temperature=1.0, max_tokens=5000))
            await asyncio.gather(long, fail())
            return []

    strategy = build("strategies", "best-of-n", {"n": 2, "verifier": Hasty()})
    result = sd.decode(prompt, backend=backend, schema=SCHEMA, strategy=strategy)
    assert result.usage.generated_tokens == len(drawn)
    assert result.usage_by_part["verifier"].generated_tokens >= 5


def test_a_strategys_own_loose_ends_are_billed(backend: TransformersBackend, drawn: list[int], prompt: Prompt) -> None:
    @dataclass(frozen=True)
    class Careless:
        async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
            self_running.append(asyncio.ensure_future(decoder.extend([decoder.root], LONG, n=2)))
            (child,) = await decoder.extend([decoder.root], schema.stages[0])
            return [Ranked(child, Score(0.0))]

    self_running: list[Any] = []
    result = sd.decode(prompt, backend=backend, schema=SCHEMA, strategy=Careless())
    assert result.usage.generated_tokens == len(drawn) < 800


def test_whoever_stops_listening_stops_the_rest(
    backend: TransformersBackend, drawn: list[int], meters: list[Meter], prompt: Prompt
) -> None:
    schema = Schema("one", (LONG,))

    async def run() -> int:
        stream = sd.decode_many(
            [prompt] * 6, backend=backend, schema=schema, strategy="staged", budget=Budget(seconds=0.4), concurrency=3
        )
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        stopped_at = len(drawn)
        await asyncio.sleep(0.2)
        return stopped_at

    assert asyncio.run(run()) == len(drawn) == billed(meters)


def test_the_best_line_so_far_wins_when_the_budget_ends_a_search() -> None:
    """Children that were not scored any more have their parents' scores, not the first place."""

    class Second:
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            return [Score(float(c.stages["A"] == "good")) for c in candidates]

    texts = iter(["bad", "good", "bad"])
    schema = Schema("two", (Stage.tagged("A"), Stage.tagged("B")))

    def write(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return (next(texts) if stage.name == "A" else f"b{seed}") + stage.end

    strategy = build("strategies", "stage-beam", {"candidates": 3, "beams": 2, "verifier": Second()})
    result = sd.decode(
        Prompt("?"),
        backend=sd.ScriptedBackend(write),
        schema=schema,
        strategy=strategy,
        budget=Budget(verifier_calls=2),
    )
    assert result.stopped_by == "verifier_calls" and not result.candidates[0].score.scored
    assert result.stages["A"] == "good"

    @dataclass(frozen=True)
    class Unscored:
        """Grows all lines, scores the first stage only, and is ended by the budget."""

        async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
            first = await decoder.extend([decoder.root], schema.stages[0], n=3)
            await decoder.score(Second(), first)
            grown = await decoder.extend(first, schema.stages[1])
            await decoder.extend(grown, schema.stages[1])
            raise AssertionError("there was budget left")

    texts = iter(["bad", "worse", "good"])
    ended = sd.decode(
        Prompt("?"), backend=sd.ScriptedBackend(write), schema=schema, strategy=Unscored(), budget=Budget(model_calls=2)
    )
    assert ended.stopped_by == "model_calls" and ended.stages["A"] == "good"
    assert ended.candidates[0].score.reason == "budget spent; the score of its prefix"


# ------------------------------------------------------------------ the law


@dataclass(frozen=True)
class Planned:
    strategy: Any
    budget: Budget
    timeout: float | None
    cancel_after: float | None


def plans(rng: random.Random) -> Iterator[Planned]:
    verifiers = [
        PTrue(), SelfJudge(max_tokens=8), Slow(3), build("verifiers", "log-prob"),
        SelfJudge(tournament="round-robin", both_orders=True, max_tokens=5),
    ]  # fmt: skip
    while True:
        verifier = rng.choice(verifiers)
        name = rng.choice(["best-of-n", "stage-beam", "sentence-beam"])
        settings = {"n": 3} if name == "best-of-n" else {"candidates": 3, "beams": rng.choice([1, 2])}
        limit = rng.choice(["none", "tokens", "prefill_tokens", "model_calls", "seconds"])
        value = {"tokens": rng.randrange(60), "prefill_tokens": rng.randrange(300), "model_calls": rng.randrange(6)}
        budget = {"none": Budget(), "seconds": Budget(seconds=rng.uniform(0, 0.1))}.get(limit)
        slow = isinstance(verifier, Slow)
        yield Planned(
            build("strategies", name, {**settings, "verifier": verifier}),
            budget or Budget(**{limit: value[limit]}),  # type: ignore[arg-type]
            rng.uniform(0.001, 0.06) if slow or rng.random() < 0.3 else None,
            rng.uniform(0, 0.1) if rng.random() < 0.3 else None,
        )


def test_billed_is_what_was_drawn_over_500_random_searches(
    backend: TransformersBackend, drawn: list[int], meters: list[Meter], picture: Image.Image
) -> None:
    planned, what = plans(random.Random(7)), Counter[str]()
    prompts = [Prompt(f"How many? {i}", [picture] if i % 2 else ()) for i in range(10)]

    async def search(plan: Planned, prompt: Prompt, seed: int) -> None:
        task = asyncio.ensure_future(
            sd.adecode(
                prompt, backend=backend, schema=SCHEMA, strategy=plan.strategy, budget=plan.budget, seed=seed,
                verifier_timeout=plan.timeout,
            )
        )  # fmt: skip
        if plan.cancel_after is not None:
            await asyncio.sleep(plan.cancel_after)
            what["cancelled"] += task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            return
        what["stopped by budget"] += result.stopped_by is not None
        what["timed out"] += any("no score within" in failure["error"] for failure in result.trace.failures)
        what["done"] += 1

    async def run(searches: int) -> None:
        for begin in range(0, searches, 10):
            batch = [search(next(planned), prompt, begin + i) for i, prompt in enumerate(prompts)]
            await asyncio.gather(*batch)
            assert billed(meters) == len(drawn), f"after {begin + 10} searches"

    asyncio.run(run(SEARCHES // 2))  # under each of two engines
    for meter in meters:
        used, budget = meter.usage, meter.budget
        for limit, count in (
            ("tokens", "generated_tokens"),
            ("prefill_tokens", "prefilled_tokens"),
            ("model_calls",) * 2,
        ):
            allowed = getattr(budget, limit)
            assert allowed is None or getattr(used, count) <= allowed, f"{limit} overshot"
        assert meter.remaining.tokens == (None if budget.tokens is None else budget.tokens - used.generated_tokens)
    assert min(what["cancelled"], what["stopped by budget"], what["timed out"]) >= 20, what
    assert len(meters) == SEARCHES // 2 and len(drawn) > 1000
