"""A replay is the run: the same candidates along the same paths, at the same cost, with no model in sight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from PIL import Image

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.core.errors import NotRecordedError
from structdecode.core.protocols import Decoder
from structdecode.core.settings import build
from structdecode.core.types import Prompt, Ranked, Sampling, Schema, Score, Stage, rank
from structdecode.evaluation.isolation import isolated
from structdecode.pools.recorder import RecordingBackend
from structdecode.pools.replay import ReplayBackend
from structdecode.pools.store import Pool, PoolWriter
from tests.backends.transformers import tiny

SHORT = Schema(
    "short",
    tuple(Stage.tagged(n, sampling=Sampling(temperature=1.2, max_tokens=9)) for n in ("CAPTION", "CONCLUSION")),
)
MODEL = {"name": "tiny", "digest": "0"}


@lru_cache
def backend(name: str, engine: str) -> TransformersBackend:
    return TransformersBackend(*tiny.build(name), name=name, engine=engine)  # type: ignore[arg-type]


class Tapes:
    """A pool in memory, behind the same two backends."""

    def __init__(self, path: Any) -> None:
        self._writer = PoolWriter(path, MODEL)
        self._path = path

    def recording(self, of: TransformersBackend) -> RecordingBackend:
        return RecordingBackend(isolated(of), self._writer.add)

    def replay(self) -> ReplayBackend:
        return ReplayBackend.load(str(self._path))


async def inside(schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
    """Starts anywhere, puts text in, looks from another view, leaves open, lets go: whatever is billed in its own way."""
    first, second = schema.stages
    open_ = await decoder.extend(
        [decoder.root], first, n=3, leave_open=True, sampling=Sampling(max_tokens=4, temperature=1.5)
    )
    closed = await decoder.extend(open_, first, prefix_log_probs=True)
    decoder.keep(closed[1:])
    again = await decoder.extend(closed, second, hidden_layers=(0, -1))  # the first was let go: it is computed anew
    put = await decoder.force([decoder.root, decoder.root], first, ["one and two", "a red square"], hidden_layers=(1,))
    there = await decoder.extend(put, second, n=2, prefix_log_probs=True, hidden_layers=(-1,))
    async with decoder.view(Prompt("Is there anything?", decoder.prompt.images)) as view:
        other = await view.extend([view.root], first, n=2)
    nested = await build("strategies", "best-of-n", {"n": 2, "verifier": "p-true"})(
        schema.behind(closed[2]), decoder.at(closed[2])
    )
    found = [*again, *there]
    assert len(other) == 2 and len(nested) == 2
    return rank(found, await decoder.score(build("verifiers", "log-prob"), found))


def strategies(width: int) -> dict[str, Any]:
    named = [
        ("staged", {}), ("best-of-n", {"n": width, "verifier": "log-prob"}), ("self-consistency", {"n": width}),
        ("best-of-n", {"n": width, "verifier": "p-true"}), ("stage-beam", {"candidates": width, "verifier": "self-judge"}),
        ("stage-beam", {"candidates": width, "beams": 2, "verifier": "self-certainty"}),
        ("sentence-beam", {"candidates": width, "verifier": "log-prob"}), ("staged", {"temperature": 0.0}),
    ]  # fmt: skip
    return {f"{name} {settings}": build("strategies", name, settings) for name, settings in named}


def outcome(result: sd.Result) -> Any:
    """All but the last bits of numbers, which depend on what is in the batch."""
    usage = {part: replace(used, seconds=0.0) for part, used in result.usage_by_part.items()}
    return [(r.candidate.content, r.paths) for r in result.candidates], usage, result.stopped_by, result.answer


def values(result: sd.Result) -> list[float]:
    return [math.nan if r.score.value is None else r.score.value for r in result.candidates]


@pytest.mark.parametrize("engine", ["slots", "plain"])
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_a_replay_is_the_run(name: str, engine: str, picture: Image.Image, tmp_path: Any) -> None:
    """Of every architecture under both engines; and what is narrower than what was recorded is a run of its own."""
    tapes, built = Tapes(tmp_path / "pool"), backend(name, engine)
    second = Prompt("And why?") if name == "mllama" else Prompt("How many?", [picture, picture.rotate(90)])
    prompts = [Prompt("How many objects are there?", [picture]), second]
    searches = {**strategies(4), "inside": inside}
    for at, prompt in enumerate(prompts):
        asked = {"schema": SHORT, "sample_id": str(at), "seed": 3}
        runs = {k: sd.decode(prompt, backend=tapes.recording(built), strategy=s, **asked) for k, s in searches.items()}  # type: ignore[arg-type]
        for label, search in searches.items():
            replayed = sd.decode(prompt, backend=tapes.replay(), strategy=search, **asked)  # type: ignore[arg-type]
            assert outcome(replayed) == outcome(runs[label]), label
            assert values(replayed) == pytest.approx(values(runs[label]), rel=1e-4, abs=1e-4, nan_ok=True)
        for label, search in strategies(2).items():
            run = sd.decode(prompt, backend=isolated(built), strategy=search, **asked)  # type: ignore[arg-type]
            try:
                replayed = sd.decode(prompt, backend=tapes.replay(), strategy=search, **asked)  # type: ignore[arg-type]
            except NotRecordedError:
                assert "beam" in label, "a narrower beam may go where the wider one did not"
                continue
            assert outcome(replayed) == outcome(run), label


def test_numbers_come_back_to_the_last_bit(prompt: Prompt, tmp_path: Any) -> None:
    tapes = Tapes(tmp_path / "pool")

    async def search(schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        found = await decoder.extend([decoder.root], schema.stages[0], n=3, prefix_log_probs=True, hidden_layers=(0, 2))
        return rank(found, [Score(0.0, resolution=0.0)] * 3)

    run = sd.decode(prompt, backend=tapes.recording(backend("mllama", "slots")), schema=SHORT, strategy=search)
    replayed = sd.decode(prompt, backend=tapes.replay(), schema=SHORT, strategy=search)
    assert [r.candidate for r in replayed.candidates] == [r.candidate for r in run.candidates]
    for ours, theirs in zip(replayed.candidates, run.candidates, strict=True):
        (span,), (other,) = ours.candidate.spans, theirs.candidate.spans
        assert span.hidden_states is not None and other.hidden_states is not None
        assert torch.equal(torch.tensor(span.hidden_states), torch.tensor(other.hidden_states))
        assert span.prefix_log_probs and span.proposal_log_probs and span.certainties

    async def less(schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        found = await decoder.extend([decoder.root], schema.stages[0], n=3, hidden_layers=(2,))
        return rank(found, [Score(0.0, resolution=0.0)] * 3)

    (first, *_) = sd.decode(prompt, backend=tapes.replay(), schema=SHORT, strategy=less).candidates
    states, span = first.candidate.spans[0].hidden_states, run.candidates[0].candidate.spans[0]
    assert states is not None and span.hidden_states is not None and states.tolist() == span.hidden_states[1:].tolist()
    assert first.candidate.spans[0].prefix_log_probs == (), "what was not asked for is not told"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"seed": 4}, "3 spans of CAPTION"), ({"sample_id": "other"}, "3 spans of CAPTION"),
        ({"strategy": build("strategies", "best-of-n", {"n": 5})}, "2 spans of CAPTION"),
        ({"strategy": build("strategies", "best-of-n", {"n": 3, "temperature": 0.5})}, "3 spans of CAPTION"),
        ({"strategy": build("strategies", "best-of-n", {"n": 3, "max_tokens": 2})}, "3 spans of CAPTION"),
        ({"strategy": build("strategies", "best-of-n", {"n": 3, "verifier": "p-true"})}, "log-probabilities of texts"),
        ({"strategy": build("strategies", "best-of-n", {"n": 3, "verifier": "self-judge"})}, "spans of REPLY"),
        ({"prompt": Prompt("Something else?")}, "3 spans of CAPTION"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_and_never_made_up(
    change: dict[str, Any], missing: str, prompt: Prompt, tmp_path: Any
) -> None:
    """Though a verifier that fails is data in a search: here the whole search is none."""
    tapes = Tapes(tmp_path / "pool")
    asked: dict[str, Any] = {
        "prompt": prompt, "schema": SHORT, "strategy": build("strategies", "best-of-n", {"n": 3}), "seed": 3, "sample_id": "x",
    }  # fmt: skip
    sd.decode(backend=tapes.recording(backend("llava", "slots")), **asked)
    sd.decode(backend=tapes.replay(), **asked)
    with pytest.raises(NotRecordedError, match=missing) as caught:
        sd.decode(backend=tapes.replay(), **{**asked, **change})
    assert all(count > 0 for count in caught.value.missing.values())


@pytest.mark.parametrize("tokens", [1, 7, 20, 30, 10_000])
def test_a_budget_ends_a_replay_where_it_ended_the_run(tokens: int, prompt: Prompt, tmp_path: Any) -> None:
    tapes = Tapes(tmp_path / "pool")
    asked: dict[str, Any] = {
        "schema": SHORT, "strategy": build("strategies", "stage-beam", {"candidates": 3, "verifier": "p-true"}), "budget": {"tokens": tokens},
    }  # fmt: skip
    run = sd.decode(prompt, backend=tapes.recording(backend("mllama", "slots")), **asked)
    assert outcome(sd.decode(prompt, backend=tapes.replay(), **asked)) == outcome(run)


@pytest.mark.parametrize(
    "budget",
    [{"model_calls": 2}, {"prefill_tokens": 40}, {"prefill_tokens": 75}, {"verifier_calls": 2}, {"prefill_tokens": 3}],
)
def test_so_do_other_limits_of_what_was_recorded_without(budget: dict[str, int], prompt: Prompt, tmp_path: Any) -> None:
    tapes, built = Tapes(tmp_path / "pool"), backend("mllama", "slots")
    asked: dict[str, Any] = {
        "schema": SHORT,
        "strategy": build("strategies", "best-of-n", {"n": 3, "verifier": "p-true"}),
    }
    sd.decode(prompt, backend=tapes.recording(built), **asked)
    run = sd.decode(prompt, backend=isolated(built), budget=budget, **asked)
    assert run.stopped_by is not None
    assert outcome(sd.decode(prompt, backend=tapes.replay(), budget=budget, **asked)) == outcome(run)


def test_the_pool_is_a_table(prompt: Prompt, tmp_path: Any) -> None:
    tapes = Tapes(tmp_path / "pool")
    run = sd.decode(
        prompt,
        backend=tapes.recording(backend("llava", "slots")),
        schema=SHORT,
        strategy=build("strategies", "best-of-n", {"n": 3}),
    )
    table = Pool.open(tmp_path / "pool").to_pandas()
    assert list(table.stage) == ["CAPTION"] * 3 + ["CONCLUSION"] * 3
    spans = {
        path: span
        for r in run.candidates
        for path in r.paths
        for path, span in zip([path[:1], path], r.candidate.spans, strict=True)
    }
    for row in table.itertuples():
        assert row.text == spans[row.path].text and row.tokens == len(spans[row.path].token_ids)
        assert row.log_prob == pytest.approx(sum(spans[row.path].log_probs), abs=1e-4)


def test_a_budget_that_refuses_a_prompt_is_replayed_from_its_own_recording(prompt: Prompt, tmp_path: Any) -> None:
    """Though nothing but the prompt's tokens is known of what was refused."""
    free = sd.decode(
        prompt,
        backend=isolated(backend("llava", "slots")),
        schema=SHORT,
        strategy=build("strategies", "best-of-n", {"n": 3}),
    )
    for at, tokens in enumerate((1, free.usage.prefilled_tokens)):  # the search's own prompt, the verifier's
        tapes = Tapes(tmp_path / f"pool{at}")
        asked: dict[str, Any] = {
            "schema": SHORT, "strategy": build("strategies", "best-of-n", {"n": 3, "verifier": "p-true"}), "budget": {"prefill_tokens": tokens},
        }  # fmt: skip
        run = sd.decode(prompt, backend=tapes.recording(backend("llava", "slots")), **asked)
        assert run.stopped_by == "prefill_tokens"
        assert outcome(sd.decode(prompt, backend=tapes.replay(), **asked)) == outcome(run), tokens


def test_greedy_rows_keep_seeds_of_their_own(prompt: Prompt, tmp_path: Any) -> None:
    tapes = Tapes(tmp_path / "pool")

    async def search(schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        greedy = Sampling(temperature=0, max_tokens=5)
        first = await decoder.extend([decoder.root], schema.stages[0], n=2, sampling=greedy)
        found = await decoder.extend(first, schema.stages[1], n=2, sampling=greedy)
        return rank(found, [Score(0.0, resolution=0.0)] * 4)

    run = sd.decode(prompt, backend=tapes.recording(backend("llava", "slots")), schema=SHORT, strategy=search)
    replayed = sd.decode(prompt, backend=tapes.replay(), schema=SHORT, strategy=search)
    assert [r.candidate for r in replayed.candidates] == [r.candidate for r in run.candidates]


def test_a_strategy_that_trips_over_what_is_missing_is_not_blamed(prompt: Prompt, tmp_path: Any) -> None:
    tapes = Tapes(tmp_path / "pool")
    verifier = build("verifiers", "p-true")

    async def search(schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        found = await decoder.extend([decoder.root], schema.stages[0], n=2)
        scores = await decoder.score(verifier, found)
        return rank(found, [Score(score.value + 0.0) for score in scores])  # type: ignore[operator]

    asked: dict[str, Any] = {"schema": SHORT, "strategy": build("strategies", "best-of-n", {"n": 2})}
    sd.decode(prompt, backend=tapes.recording(backend("llava", "slots")), **asked)
    with pytest.raises(NotRecordedError, match="log-probabilities of texts"):
        sd.decode(prompt, backend=tapes.replay(), schema=SHORT, strategy=search)
