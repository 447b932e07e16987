"""Noise in the last bits of a score never decides (law 4): twins, near-ties, thresholds, votes, ensembles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import structdecode as sd
from structdecode.core.protocols import Model
from structdecode.core.resolution import BY_PRECISION, resolution
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Schema, Score, Stage, rank, twins
from structdecode.testing import EchoModel, candidate
from structdecode.verifiers.ensemble import Ensemble

FLOAT32 = resolution("torch.float32")
SCHEMA = Schema("two", (Stage.tagged("A"), Stage.tagged("B")))


def one(text: str, *path: int) -> Candidate:
    return candidate(text, path=path)


def test_twins_are_one_entry_and_the_lowest_path_stands_for_them() -> None:
    given_ = [one("b", 3), one("a", 2), one("b", 1), one("a", 0)]
    ranked = rank(given_, [Score(0.9), Score(0.5), Score(0.9 + 1e-9), Score(0.5)])
    assert [(r.candidate.path, r.paths, r.draws) for r in ranked] == [((1,), ((1,), (3,)), 2), ((0,), ((0,), (2,)), 2)]
    assert twins(given_) == [[2, 0], [3, 1]]


def test_what_is_not_wholly_equal_is_no_twin() -> None:
    base = one("a", 0)
    cut = Candidate((sd.Span("SUMMARY", "a", finish_reason="length", raw=base.text),), (1,))
    other_ids = Candidate((sd.Span("SUMMARY", "a", (7, 8), raw="<SUMMARY> a </SUMMARY>"),), (2,))
    assert len(twins([base, cut, other_ids])) == 3


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-50, 50)), min_size=1, max_size=12), st.integers(0, 2**20),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_noise_and_order_never_change_a_ranking(rows: list[tuple[int, int]], seed: int, shuffle: random.Random) -> None:
    """Values a hundred resolutions apart, or equal but for noise: the same ranking whatever the noise and the order."""
    noise = random.Random(seed)
    values = dict[int, int]()
    for text, value in rows:
        values.setdefault(text, value)
    candidates = [one(str(text), index) for index, (text, _) in enumerate(rows)]

    def ranking(order: Sequence[int], noisy: bool) -> list[object]:
        chosen = [candidates[i] for i in order]
        scores = [
            Score(values[rows[i][0]] * 100 * FLOAT32 + (noise.uniform(-0.3, 0.3) * FLOAT32 if noisy else 0), resolution=FLOAT32)
            for i in order
        ]  # fmt: skip
        return [(r.candidate.path, r.paths) for r in rank(chosen, scores)]

    order = list(range(len(rows)))
    plain = ranking(order, noisy=False)
    shuffle.shuffle(order)
    assert ranking(order, noisy=True) == plain


def test_a_tie_at_the_resolution_goes_to_the_lowest_path_and_a_wider_gap_does_not() -> None:
    low, high = one("a", 0), one("b", 1)
    for scale in (1.0, 250.0):  # the resolution grows with the values
        near = [Score(-scale, resolution=1e-3), Score(-scale + 0.9e-3 * scale, resolution=1e-3)]
        wide = [Score(-scale, resolution=1e-3), Score(-scale + 2.1e-3 * scale, resolution=1e-3)]
        assert rank([high, low], near[::-1])[0].candidate is low
        assert rank([low, high], wide)[0].candidate is high
    exact = [Score(0.5, resolution=0.0), Score(0.5 + 1e-12, resolution=0.0)]
    assert rank([low, high], exact)[0].candidate is high, "an exact verifier's differences count"


def test_a_second_score_decides_among_ties_by_the_same_rule() -> None:
    a, b, c = one("a", 0), one("b", 1), one("c", 2)
    votes = [Score(0.5), Score(0.5), Score(0.25)]
    then = [Score(-2.0, resolution=1e-5), Score(-1.0, resolution=1e-5), Score(0.0, resolution=1e-5)]
    assert [r.candidate for r in rank([a, b, c], votes, then)] == [b, a, c]
    close = [Score(-1.0, resolution=1e-5), Score(-1.0 + 1e-7, resolution=1e-5), Score(None)]
    assert [r.candidate for r in rank([a, b, c], votes, close)] == [a, b, c]


def test_thresholds_are_met_within_the_resolution() -> None:
    assert Score(0.5 - 1e-7, resolution=1e-5).reaches(0.5)
    assert not Score(0.5 - 1e-4, resolution=1e-5).reaches(0.5)
    assert not Score.unscored("none").reaches(-1e9)


@pytest.mark.parametrize("normalise", ["z", "minmax"])
def test_an_ensemble_does_not_blow_noise_up(normalise: str) -> None:
    """A member whose scores differ by noise alone was brought to the scale of the others, and decided."""

    @dataclass(frozen=True)
    class Fixed:
        values: tuple[float, ...]

        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            return [Score(value, resolution=1e-5) for value in self.values]

    pool = [one("a", 0), one("b", 1), one("c", 2)]
    prompt, model = Prompt("?"), EchoModel()
    for noise in (1e-8, -1e-8):
        flat = Fixed((0.5, 0.5 + noise, 0.5 - noise))
        say = Fixed((0.2, 0.2, 0.1))
        ensemble = Ensemble({"flat": flat, "say": say}, normalise=normalise)  # type: ignore[arg-type]
        scores = asyncio.run(ensemble.score(prompt, pool, model))
        assert [r.candidate.path for r in rank(pool, scores)] == [(0,), (1,), (2,)]
        assert scores[0].ties(scores[1]) and not scores[0].ties(scores[2])


@dataclass
class Counting:
    """Scores by text, and keeps what it was asked about."""

    asked: list[list[Candidate]] = field(default_factory=list)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        self.asked.append(list(candidates))
        return [Score(float(len(c.text))) for c in candidates]


@pytest.mark.parametrize("name", ["best-of-n", "stage-beam", "sentence-beam"])
def test_a_verifier_sees_each_of_several_twins_once_and_the_saving_is_counted(name: str) -> None:
    verifier = Counting()
    settings = {"n": 9} if name == "best-of-n" else {"candidates": 9}
    strategy = build("strategies", name, {**settings, "verifier": verifier})
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: "x" * (1 + seed % 2) + stage.end)
    result = sd.decode(Prompt("?"), backend=backend, schema=SCHEMA, strategy=strategy)
    for asked in verifier.asked:
        assert len({c.content for c in asked}) == len(asked) > 0
        assert all(len(c.path) == len(asked[0].path) for c in asked)
    calls = sum(map(len, verifier.asked))
    events = [event for event in result.trace.events if event["kind"] == "score"]
    drawn = sum(len(event["paths"]) for event in events)
    assert result.usage.verifier_calls == calls == sum(event["asked"] for event in events)
    assert result.usage.verifier_calls_saved == drawn - calls > 0
    assert sum(r.draws for r in result.candidates) == len(result.draws) == 9
    assert result.best is not None and result.best.path == min(result.candidates[0].paths)


def test_votes_count_each_draw() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: ("7" if seed % 4 else "8") + stage.end)
    schema = Schema("one", (Stage.tagged("A"),))
    strategy = build("strategies", "self-consistency", {"n": 12})
    result = sd.decode(Prompt("?"), backend=backend, schema=schema, strategy=strategy, seed=3)
    votes = {r.candidate.stages["A"]: r.draws for r in result.candidates}
    assert sum(votes.values()) == 12 and len(votes) == 2
    assert {r.candidate.stages["A"]: r.score.value for r in result.candidates} == {
        text: count / 12 for text, count in votes.items()
    }


def test_sentences_keep_the_white_space_between_them() -> None:
    pieces = iter([" One.", "  Two.", "\nThree.", "5 left </A>"])
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: next(pieces))
    schema = Schema("one", (Stage.tagged("A"),))
    strategy = build("strategies", "sentence-beam", {"candidates": 1})
    result = sd.decode(Prompt("?"), backend=backend, schema=schema, strategy=strategy)
    assert result.best is not None
    assert result.best.text == "<A> One.  Two.\nThree.5 left </A>"
    assert result.stages["A"] == "One.  Two.\nThree.5 left"


class Jittered:
    """A real little model whose numbers differ in their last bits from call to call, as a batch's do."""

    name = "jittered"

    def __init__(self, noise: random.Random) -> None:
        self.noise = noise
        self.inner = sd.ScriptedBackend(self.write)

    @staticmethod
    def write(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return f" {'abc'[seed % 3]}. {'xy'[seed // 3 % 2]} {stage.end}"  # several twins, and equal scores beside them

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Any]:
        async with self.inner.open(prompt) as session:
            yield JitteredSession(session, self.noise)


class JitteredSession:
    resolution = FLOAT32

    def __init__(self, inner: Any, noise: random.Random) -> None:
        self.inner, self.noise = inner, noise
        self.open, self.release = inner.open, inner.release

    async def extend(self, rows: Any, request: Any, **options: Any) -> Any:
        work = await self.inner.extend(rows, request, **options)
        return replace(work, value=[self.jittered(span) for span in work.value])

    def jittered(self, span: sd.Span) -> sd.Span:
        return replace(
            span,
            log_probs=tuple(v + self.noise.uniform(-1e-7, 1e-7) for v in span.log_probs),
            certainties=tuple(v + self.noise.uniform(-1e-7, 1e-7) for v in span.certainties),
        )


@pytest.mark.parametrize("verifier", ["log-prob", "self-certainty"])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("best-of-n", {"n": 8}), ("self-consistency", {"n": 8}), ("stage-beam", {"candidates": 6}),
        ("stage-beam", {"candidates": 6, "beams": 3}), ("sentence-beam", {"candidates": 6}),
    ],
)  # fmt: skip
def test_noise_in_the_last_bits_never_changes_a_path(name: str, settings: dict[str, Any], verifier: str) -> None:
    given_ = settings if name == "self-consistency" else {**settings, "verifier": verifier}
    found = set()
    for seed in range(12):
        result = sd.decode(
            Prompt("?"), backend=Jittered(random.Random(seed)), schema=SCHEMA,
            strategy=build("strategies", name, given_), seed=1,
        )  # fmt: skip
        found.add(tuple((r.candidate.path, r.paths) for r in result.candidates))
    assert len(found) == 1


def test_numbers_are_compared_as_finely_as_their_precision_allows() -> None:
    assert resolution("float32") == resolution(torch.float32) == BY_PRECISION["float32"] == 1e-5
    assert [resolution(f"torch.{name}") for name in BY_PRECISION] == list(BY_PRECISION.values())
    assert resolution(torch.float8_e4m3fn) == resolution(None) == BY_PRECISION["bfloat16"]
