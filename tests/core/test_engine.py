from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.errors import ModelError, UnknownNameError
from structdecode.core.protocols import Model
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Score, Stage
from structdecode.testing import scripted

BACKEND = ScriptedBackend(scripted)
QUESTION = Prompt("How many red squares are there?")
NAMES = registry.names("strategies")


@dataclass(frozen=True)
class Broken:
    """A verifier that fails in one way."""

    how: str

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if self.how == "raises":
            raise RuntimeError("out of order")
        if self.how == "sleeps":
            await asyncio.sleep(60)
        if self.how == "short":
            return [Score(1.0)]
        if self.how == "numbers":
            return [1.0 for _ in candidates]  # type: ignore[misc]
        return [Score({"nan": math.nan, "inf": math.inf}[self.how]) for _ in candidates]


@pytest.mark.parametrize("how", ["raises", "sleeps", "short", "numbers", "nan", "inf"])
def test_failing_verifier_is_named_and_the_search_goes_on(how: str) -> None:
    strategy = build("strategies", "stage-beam", {"verifier": Broken(how)})
    result = sd.decode(QUESTION, backend=BACKEND, strategy=strategy, verifier_timeout=0.05)
    assert result.answer
    assert {f["verifier"] for f in result.trace.failures} == {"Broken"}
    assert all(not r.score.scored and "Broken failed" in r.score.reason for r in result.candidates)


def test_one_bad_score_costs_only_its_own_candidate() -> None:
    class Half:
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            return [Score(math.nan if i % 2 else 1.0) for i in range(len(candidates))]

    strategy = build("strategies", "best-of-n", {"n": 4, "verifier": Half()})
    result = sd.decode(QUESTION, backend=BACKEND, strategy=strategy)
    assert sorted(r.score.scored for r in result.candidates) == [False, False, True, True]


@given(name=st.sampled_from(NAMES), tokens=st.integers(0, 900), seed=st.integers(0, 50))
@settings(max_examples=120, deadline=None)
def test_token_budget_is_never_overshot(name: str, tokens: int, seed: int) -> None:
    result = sd.decode(QUESTION, backend=BACKEND, strategy=name, budget=sd.Budget(tokens=tokens), seed=seed)
    assert result.usage.generated_tokens <= tokens
    if result.stopped_by is None:
        assert result.best is not None and (
            name in ("direct", "cot") or result.best.finished(sd.LLAVA_O1.for_prompt(QUESTION))
        )
    else:
        assert result.stopped_by == "tokens"
        assert tokens == 0 or result.candidates


@pytest.mark.parametrize("limit", ["model_calls", "verifier_calls"])
@pytest.mark.parametrize("most", [0, 1, 3, 9])
def test_call_budgets_are_never_overshot(limit: str, most: int) -> None:
    result = sd.decode(QUESTION, backend=BACKEND, strategy="stage-beam", budget=sd.Budget(**{limit: most}))
    assert getattr(result.usage, limit) <= most
    needed = {"model_calls": 3, "verifier_calls": 12}[limit]
    assert result.stopped_by == (limit if most < needed else None)


def test_time_budget_stops_the_search_and_keeps_what_there_is() -> None:
    def slow(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        import time

        time.sleep(0.02)
        return f" text {stage.end}"

    result = sd.decode(QUESTION, backend=ScriptedBackend(slow), strategy="stage-beam", budget=sd.Budget(seconds=0.1))
    assert result.stopped_by == "seconds"
    assert result.candidates


def test_verifier_work_is_counted_in_full() -> None:
    def judge(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return "I choose response 1" if stage.name == "REPLY" else scripted(prompt, prefix, stage, seed)

    strategy = build("strategies", "best-of-n", {"n": 3, "verifier": build("verifiers", "self-judge")})
    result = sd.decode(QUESTION, backend=ScriptedBackend(judge), strategy=strategy)
    verifier = result.usage_by_part["verifier"]
    assert verifier.generated_tokens == 2 * len("I choose response 1")
    assert (verifier.model_calls, verifier.verifier_calls) == (2, 3)
    total = result.usage_by_part["generator"] + verifier
    assert result.usage.generated_tokens == total.generated_tokens


def test_judge_cannot_dodge_the_budget() -> None:
    def judge(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return "hm " * 500 if stage.name == "REPLY" else f" ok {stage.end}"

    strategy = build("strategies", "stage-beam", {"verifier": build("verifiers", "self-judge")})
    for tokens in (50, 100, 700):
        result = sd.decode(QUESTION, backend=ScriptedBackend(judge), strategy=strategy, budget=sd.Budget(tokens=tokens))
        assert result.usage.generated_tokens <= tokens


@pytest.mark.parametrize("name", NAMES)
def test_same_result_alone_in_a_crowd_and_in_any_order(name: str) -> None:
    prompts = [Prompt(f"Question {i}?") for i in range(40)]

    async def crowd(order: list[int]) -> dict[int, Any]:
        found = {}
        async for at, result in sd.decode_many(
            [prompts[i] for i in order], backend=BACKEND, strategy=name, seed=3, sample_ids=[str(i) for i in order]
        ):
            found[order[at]] = result.best
        return found

    forward, backward = (asyncio.run(crowd(list(range(40))[::step])) for step in (1, -1))
    assert forward == backward
    assert sd.decode(prompts[7], backend=BACKEND, strategy=name, seed=3, sample_id="7").best == forward[7]


def test_every_span_has_a_seed_of_its_own() -> None:
    result = sd.decode(QUESTION, backend=BACKEND, strategy="stage-beam")
    seeds = [e["seed"] for e in result.trace.events if e["kind"] == "candidate"]
    assert len(seeds) == len(set(seeds)) == 12  # three stages without a picture, four candidates
    other = sd.decode(QUESTION, backend=BACKEND, strategy="stage-beam", seed=1)
    assert not set(seeds) & {e["seed"] for e in other.trace.events if e["kind"] == "candidate"}


def test_works_inside_a_running_event_loop() -> None:
    async def notebook() -> str:
        return sd.decode(QUESTION, backend=BACKEND).answer

    assert asyncio.run(notebook()) == sd.decode(QUESTION, backend=BACKEND).answer


def test_caption_is_left_out_without_a_picture() -> None:
    from PIL import Image

    without = sd.decode(QUESTION, backend=BACKEND)
    pictured = sd.decode(Prompt("What is it?", Image.new("RGB", (4, 4))), backend=BACKEND)
    assert list(without.stages) == ["SUMMARY", "REASONING", "CONCLUSION"]
    assert list(pictured.stages) == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]


def test_only_visible_stages_reach_the_answer() -> None:
    result = sd.decode(QUESTION, backend=BACKEND)
    assert result.answer == result.stages["CONCLUSION"]
    assert result.stages["REASONING"] not in result.answer


def test_unknown_names_and_bad_limits_are_the_users_mistakes() -> None:
    with pytest.raises(sd.StructdecodeError, match="did you mean 'stage-beam'"):
        sd.decode(QUESTION, backend=BACKEND, strategy="stage-bean")
    with pytest.raises(sd.StructdecodeError, match="schema 'x'"):
        sd.decode(QUESTION, backend=BACKEND, schema="x")
    with pytest.raises(sd.StructdecodeError, match="tokens must be 0 or more"):
        sd.Budget(tokens=-1)


def test_a_mistake_is_told_before_a_checkpoint_is_loaded(tmp_path: Any) -> None:
    with pytest.raises(UnknownNameError, match="no-such-search"):
        sd.decode(QUESTION, backend=tmp_path / "none", strategy="no-such-search")
    with pytest.raises(ModelError, match="none"):
        sd.decode(QUESTION, backend=tmp_path / "none")


def test_trace_is_json_and_comes_back(tmp_path: Any) -> None:
    from structdecode.core.trace import Trace

    seen: list[Any] = []
    result = sd.decode(QUESTION, backend=BACKEND, strategy="best-of-n", observer=seen.append)
    assert [event for event in seen if event["kind"] != "stage"] == result.trace.events
    path = tmp_path / "trace.json"
    result.trace.save(path)
    assert not list(tmp_path.glob("*.partial"))
    assert Trace.load(path).events == json.loads(json.dumps(result.trace.events))
    for text, problem in (("{", "not a trace"), ("[]", "not a trace"), ('{"format": "other"}', "not a trace")):
        path.write_text(text)
        with pytest.raises(sd.StructdecodeError, match=problem):
            Trace.load(path)
    with pytest.raises(sd.StructdecodeError, match="No such file"):
        Trace.load(tmp_path / "none.json")


@pytest.mark.parametrize("verifier", ["p-true", "self-judge", "label-read", "generative"])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 8])
def test_parallel_calls_of_a_verifier_do_not_overshoot_either(verifier: str, most: int) -> None:
    strategy = build("strategies", "stage-beam", {"verifier": build("verifiers", verifier)})
    result = sd.decode(QUESTION, backend=BACKEND, strategy=strategy, budget=sd.Budget(model_calls=most))
    assert result.usage.model_calls <= most
    assert result.stopped_by == "model_calls"


@pytest.mark.parametrize("verifier", ["p-true", "self-judge", "label-read", "generative"])
@pytest.mark.parametrize("most", [0, 10, 31, 200, 500])
def test_prefill_budget_is_never_overshot(verifier: str, most: int) -> None:
    strategy = build("strategies", "stage-beam", {"verifier": build("verifiers", verifier)})
    result = sd.decode(QUESTION, backend=BACKEND, strategy=strategy, budget=sd.Budget(prefill_tokens=most))
    assert result.usage.prefilled_tokens <= most
    assert result.stopped_by == "prefill_tokens"
