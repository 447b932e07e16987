"""Law 4 on the embedded model: the same answer, text, path and tree, whatever is decoded beside it, by either engine.

A few questions here; ``make law4`` runs all 200, and ``python -m benchmarks.divergence`` writes the table of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import divergence
from benchmarks.divergence import REFERENCE, Condition, differences, results
from structdecode.core import registry
from structdecode.core.lookup import load_backend
from structdecode.verifiers.llm_judge import LlmJudge
from tests.training.annotation.server import ChatServer
from tests.verifiers.judging import grade

N = int(os.environ.get("STRUCTDECODE_LAW4_QUESTIONS", "2"))
CONDITIONS = (
    divergence.CONDITIONS if N > 20 else (Condition(1), Condition(2, stop_after=0.5), Condition(3, engine="plain"))
)


@pytest.fixture(scope="module")
def backends() -> dict[str, Any]:
    return {name: load_backend(None, device="cpu", dtype="float32", engine=name) for name in ("slots", "plain")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def strategies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with ChatServer(grade) as server:
        made = divergence.with_files(tmp_path_factory.mktemp("law4"))
        yield divergence.arms({**made, "llm-judge": LlmJudge("judge", server.url)})


MADE = (
    "reward-model", "image-text", "probe", "calibrated", "process-reward", "outcome-reward", "llm-judge",
)  # fmt: skip


@pytest.mark.parametrize("name", [*divergence.arms(), *(f"stage-beam, {name}" for name in MADE)])
def test_a_search_takes_the_same_path_in_any_company(
    name: str, backends: dict[str, Any], strategies: dict[str, Any]
) -> None:
    before = torch.get_num_threads()
    try:
        prompts = divergence.questions(N)
        reference = results(backends["slots"], prompts, strategies[name], REFERENCE)
        for condition in CONDITIONS:
            other = results(backends[condition.engine], prompts, strategies[name], condition)
            same = {"questions": N, "paths": 0, "texts": 0, "answers": 0, "trees": 0}
            assert differences(reference, other) == same, condition.name
    finally:
        torch.set_num_threads(before)
    if "beam" in name:
        assert sum(r.usage.verifier_calls_saved for r in reference) > 0, (
            "no twins: the law was not tested where it is weak"
        )


def built_in(group: str) -> set[str]:
    """Names of our own entry points: other tests register more in this process."""
    points = entry_points(group=f"structdecode.{group}")
    return {point.name for point in points if point.value.startswith("structdecode.")}


def test_every_strategy_and_verifier_is_there(strategies: dict[str, Any]) -> None:
    assert {registry.name_of("strategies", type(arm)) for arm in strategies.values()} == built_in("strategies")
    held = [arm.verifier for arm in strategies.values() if hasattr(arm, "verifier")]
    assert {registry.name_of("verifiers", type(verifier)) for verifier in held} == built_in("verifiers")


def test_the_test_sees_a_difference(backends: dict[str, Any], strategies: dict[str, Any]) -> None:
    prompts = divergence.questions(N)
    found = [
        results(backends["slots"], prompts, strategies["staged, sampled"], REFERENCE, seed=seed) for seed in (5, 6)
    ]
    assert differences(*found)["trees"] > 0


def test_runs_can_be_resumed_in_the_middle_of_a_search(backends: dict[str, Any], tmp_path: Path) -> None:
    """`Condition.stop_after` really gives something up."""
    prompts = divergence.questions(4)
    cancelled: list[int] = []
    backend = backends["slots"]

    class Watched:
        prefixes, name = backend.prefixes, backend.name

        def open(self, prompt: Any) -> Any:
            cancelled.append(1)
            return backend.open(prompt)

    strategy = divergence.arms()["staged, sampled"]
    results(Watched(), prompts, strategy, Condition(4, stop_after=0.25))
    assert len(cancelled) > 4
