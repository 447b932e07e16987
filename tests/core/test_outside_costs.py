"""Costs beside the search's own model: a verifier says them, they add up like all others, and a budget limits money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.cli.terminal import show_result
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.core.view import render
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import scripted


@dataclass(frozen=True)
class Paid:
    """Asks a service once for each candidate."""

    each: sd.Usage = field(default_factory=partial(sd.Usage, dollars=0.1, api_calls=1))

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        for _ in candidates:
            model.charge(self.each)
        return [Score(float(len(candidate.text)), resolution=0.0) for candidate in candidates]


def search(each: sd.Usage | None = None, **options: Any) -> sd.Result:
    strategy = StageBeam(candidates=2, verifier=Paid() if each is None else Paid(each))
    return sd.decode("How many?", backend=ScriptedBackend(scripted), strategy=strategy, seed=1, **options)


def test_they_add_up_and_are_shown_where_there_are_any(tmp_path: Path) -> None:
    result, free = search(), search(sd.Usage())
    calls = result.usage.verifier_calls
    assert calls == 6 and result.usage.outside == {"dollars": pytest.approx(0.6), "api_calls": 6}
    assert result.usage_by_part["generator"].outside == {} and result.usage_by_part["verifier"].api_calls == 6
    assert replace(result.usage, dollars=0.0, api_calls=0, seconds=0.0) == replace(free.usage, seconds=0.0)
    assert "$0.6" in repr(result) and "$" not in repr(free)
    table = result.to_pandas()
    assert list(table.api_calls) == [6] * len(table) and not {"dollars", "api_calls", "flops"} & set(free.to_pandas())
    result.trace.save(tmp_path / "trace.json")
    trace = Trace.load(tmp_path / "trace.json")
    assert trace.events[-1]["usage_by_part"]["verifier"]["api_calls"] == 6 and "flops" not in trace.events[-1]["usage"]
    assert "<th>api calls</th>" in render(trace) and "<th>dollars<" not in render(free.trace)
    for each, said in ((result, True), (free, False)):
        console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
        show_result(console, each, "", show_stages=False)
        assert ("US dollars" in console.export_text()) == said


@pytest.mark.parametrize(("limit", "paid"), [(0.0, 0), (0.05, 0), (0.2, 2), (0.3, 3), (0.35, 3), (0.6, 6), (9.0, 6)])
def test_a_budget_limits_money(limit: float, paid: int) -> None:
    """Three times 0.1 is within 0.3, as people count."""
    result = search(budget={"dollars": limit})
    assert result.usage.api_calls == paid and result.usage.dollars == pytest.approx(0.1 * paid)
    assert result.stopped_by == (None if paid == 6 else "dollars") and result.best is not None
    assert sd.Budget.parse(f"dollars={limit}") == sd.Budget(dollars=limit)


def test_what_rounding_leaves_over_is_not_spent_again_and_again() -> None:
    result = search(sd.Usage(dollars=1e-10, api_calls=1), budget=sd.Budget(dollars=2.5e-10))
    assert result.usage.api_calls == 2


@pytest.mark.parametrize("name", ["dollars", "api_calls", "flops"])
@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf"), "1", None])
def test_nonsense_is_refused_and_costs_nothing(name: str, amount: Any) -> None:
    result = search(sd.Usage(**{name: amount}))
    assert result.usage.outside == {} and result.trace.failures
    assert not any(ranked.score.scored for ranked in result.candidates)
