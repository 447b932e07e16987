"""Verifiers that load and free something: once a run, whoever asks, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import structdecode as sd
from structdecode.core.engine import run_sync
from structdecode.strategies.best_of_n import BestOfN
from structdecode.verifiers.ensemble import Ensemble

SCRIPTED = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed % 97}{stage.end}")


@dataclass
class Loaded:
    """Counts what happens to it."""

    happened: list[str] = field(default_factory=list)
    fails: str = ""
    tasks: set[Any] = field(default_factory=set)

    async def __aenter__(self) -> Loaded:
        self.tasks.add(asyncio.current_task())
        await asyncio.sleep(0.01)
        if self.fails == "load":
            raise OSError("no such weights")
        self.happened.append("load")
        return self

    async def __aexit__(self, *error: object) -> None:
        self.tasks.add(asyncio.current_task())
        if self.fails == "free":
            raise OSError("stuck")
        self.happened.append("free")

    async def score(self, prompt: sd.Prompt, candidates: Sequence[sd.Candidate], model: Any) -> list[sd.Score]:
        assert self.happened == ["load"], "asked while it is open"
        return [sd.Score(float(len(c.text))) for c in candidates]


def test_it_is_loaded_before_it_is_asked_and_freed_at_the_end() -> None:
    verifier = Loaded()
    result = sd.decode("q", backend=SCRIPTED, strategy=BestOfN(n=3, verifier=verifier))
    assert result.candidates[0].score.value is not None and not result.trace.failures
    assert verifier.happened == ["load", "free"] and len(verifier.tasks) == 1, "entered and left by one task"


def test_many_searches_share_one_life() -> None:
    verifier = Loaded()

    async def all_of_them() -> int:
        found = sd.decode_many([f"q{n}" for n in range(12)], backend=SCRIPTED, strategy=BestOfN(n=2, verifier=verifier))
        return len([result async for _, result in found if not result.trace.failures])

    assert run_sync(all_of_them()) == 12 and verifier.happened == ["load", "free"]


def test_members_of_an_ensemble_live_too() -> None:
    one, other = Loaded(), Loaded()
    result = sd.decode("q", backend=SCRIPTED, strategy=BestOfN(n=2, verifier=Ensemble({"a": one, "b": other})))
    assert not result.trace.failures and one.happened == other.happened == ["load", "free"]


def test_one_that_does_not_load_is_a_failing_verifier() -> None:
    result = sd.decode("q", backend=SCRIPTED, strategy=BestOfN(n=2, verifier=Loaded(fails="load")))
    assert result.answer and "OSError: no such weights" in result.trace.failures[0]["error"]


def test_one_that_does_not_free_is_told_and_harms_nothing() -> None:
    with pytest.warns(UserWarning, match="Loaded failed to close: OSError: stuck"):
        result = sd.decode("q", backend=SCRIPTED, strategy=BestOfN(n=2, verifier=Loaded(fails="free")))
    assert result.answer and not result.trace.failures


def test_a_listener_that_leaves_frees_it() -> None:
    verifier = Loaded()

    async def first() -> None:
        found = sd.decode_many(
            ["a", "b", "c"], backend=SCRIPTED, strategy=BestOfN(n=2, verifier=verifier), concurrency=1
        )
        async for _ in found:
            break
        await found.aclose()

    run_sync(first())
    assert verifier.happened == ["load", "free"]


def test_a_reward_opens_its_verifier() -> None:
    from structdecode.training import as_reward

    verifier = Loaded()
    reward = as_reward(verifier, schema=sd.DIRECT)
    assert run_sync(reward(["q", "q"], ["a", "bb"])) == [1.0, 2.0] and verifier.happened == ["load", "free"]


def test_runs_side_by_side_do_not_end_each_others() -> None:
    """A generator runs in the context of whoever listens: what it set there would be the other one's, too."""
    short, long = Loaded(), Loaded()

    def results(n: int, verifier: Loaded) -> Any:
        return sd.decode_many([f"q{i}" for i in range(n)], backend=SCRIPTED, strategy=BestOfN(n=2, verifier=verifier))

    async def both() -> list[Any]:
        one, other = results(1, short), results(70, long)
        found = [(await anext(one))[1], (await anext(other))[1]]
        found += [result async for _, result in one]
        assert short.happened == ["load", "free"] and long.happened == ["load"]
        return found + [result async for _, result in other]

    found = run_sync(both())
    assert len(found) == 71 and not any(result.trace.failures for result in found)
    assert long.happened == ["load", "free"]


def test_one_that_is_closed_elsewhere_is_freed() -> None:
    verifier = Loaded()

    async def begun_here_closed_there() -> None:
        found = sd.decode_many(["a", "b"], backend=SCRIPTED, strategy=BestOfN(n=2, verifier=verifier))
        await asyncio.create_task(anext(found))  # type: ignore[arg-type]
        await asyncio.create_task(found.aclose())  # type: ignore[arg-type]

    run_sync(begun_here_closed_there())
    assert verifier.happened == ["load", "free"]


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_one_that_tries_to_end_the_process_as_it_loads_is_a_failing_verifier(raised: BaseException) -> None:
    class Leaving(Loaded):
        async def __aenter__(self) -> Loaded:
            raise raised

    result = sd.decode("q", backend=SCRIPTED, strategy=BestOfN(n=2, verifier=Leaving()))
    assert result.answer and type(raised).__name__ in result.trace.failures[0]["error"]
