"""Costs in every unit, counted against what can be counted otherwise, and cells matched at an equal one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.budget import Usage
from structdecode.core.errors import ConfigError
from structdecode.core.flops import ModelCost
from structdecode.core.lookup import load_backend
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.evaluation.costs import cost, families, matched, mean_cost
from structdecode.records.store import read_run
from structdecode.records.types import Record
from tests.evaluation.pocket_study import compare, small_study


def record(cell: str, generated: int, correct: bool, verifier: int = 0, flops: float = 0.0) -> Record:
    counts = {"prefilled_tokens": 0, "cached_tokens": 9999, "images_encoded": 1, "model_calls": 2, "verifier_calls": 0}
    usage = {
        "generator": {**counts, "generated_tokens": generated, "prefilled_tokens": 10},
        "verifier": {**counts, "generated_tokens": 0, "prefilled_tokens": verifier, "verifier_calls": 3},
    }
    return Record(
        "k", cell, "1", "s", None, {}, 0, "", correct, "", "", "answered", True, usage,
        {"generator": flops, "verifier": 0.0} if flops else {}, 1.5, None, {}, (), (), (),
    )  # fmt: skip


def test_each_unit_counts_the_verifier_in_full_and_the_cache_not_at_all() -> None:
    one = record("a", 100, True, verifier=50, flops=7.0)
    assert cost(one, "tokens") == 160 and cost(one, "tokens", "verifier") == 50
    assert cost(one, "generated_tokens") == 100 and cost(one, "prefilled_tokens") == 60
    assert (cost(one, "model_calls"), cost(one, "verifier_calls"), cost(one, "seconds")) == (4, 3, 1.5)
    assert cost(one, "flops") == 7.0
    with pytest.raises(ConfigError, match="did you mean 'tokens'"):
        cost(one, "token")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="match by tokens"):
        mean_cost([record("a", 1, True)], "flops")


@pytest.fixture(scope="module")
def backend() -> Any:
    return load_backend(None)


def test_flops_are_near_what_torch_counts(backend: Any) -> None:
    """Of the pocket model, a picture and 200 tokens: the rule of two leaves out attention and the projector."""
    found = backend.flops
    assert found is not None and (found.patches, found.patch) == (16, 16)
    text = "<|image|>" + " ".join(["how many red circles"] * 50)
    inputs = backend.processor(images=[Image.new("RGB", (64, 64))], text=text, return_tensors="pt")
    tokens = inputs["input_ids"].shape[1]
    tower = {name: inputs[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
    with torch.inference_mode(), FlopCounterMode(display=False) as seeing:
        backend.tower(**tower)
    with torch.inference_mode(), FlopCounterMode(display=False) as everything:
        backend.model(**inputs)
    text_flops = everything.get_total_flops() - seeing.get_total_flops()
    assert tokens >= 200 and found.per_token * tokens == pytest.approx(text_flops, rel=0.1)
    assert found.picture(64, 64) == pytest.approx(seeing.get_total_flops(), rel=0.3)


@dataclass(frozen=True)
class OwnModel:
    """Runs a model of its own and says what that costs, and asks the search's model too."""

    flops: float

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        model.charge(Usage(prefilled_tokens=1000, images_encoded=1, flops=self.flops, dollars=0.25, api_calls=2))
        await model.log_probs(Prompt(f"{prompt.question} Is it so?"), ["yes"])
        return [Score(0.0) for _ in candidates]


def test_flops_of_a_verifiers_own_model_are_counted_once(backend: Any, tmp_path: Path) -> None:
    registry.register("verifiers", "own-model")(OwnModel)
    found = {}
    for flops in (1e9, 3e9):
        study = small_study(["best-of-n"], ["own-model"], n=2, settings=[f"verifier.flops={flops}"], sweep=["n=2"])
        assert compare(study, tmp_path / str(flops), backend) == 0
        found[flops] = read_run(tmp_path / str(flops)).records
    for one, other in zip(found[1e9], found[3e9], strict=True):
        spent = one.usage["verifier"]
        assert (spent["dollars"], spent["api_calls"], spent["flops"]) == (0.25, 2, 1e9)
        assert "dollars" not in one.usage["generator"]
        asked = spent["prefilled_tokens"] - 1000  # by the search's own model
        assert asked > 0 and one.flops["verifier"] == pytest.approx(1e9 + asked * backend.flops.per_token)
        assert other.flops["verifier"] == pytest.approx(one.flops["verifier"] + 2e9)
        assert cost(one, "dollars") == 0.25 and cost(one, "api_calls") == 2


def test_a_picture_of_any_size_costs_by_its_patches() -> None:
    model = ModelCost(per_token=2.0, per_patch=3.0, patch=14)
    assert model.picture(28, 14) == 6.0 and model.picture(29, 15) == 18.0
    counts = {"generated_tokens": 5, "prefilled_tokens": 10, "cached_tokens": 1000, "images_encoded": 2}
    assert model.of(counts, [(28, 14), (28, 14)]) == 30 + 12
    assert ModelCost(2.0, 3.0, 14, patches=4).picture(9999, 1) == 12.0


def test_a_server_has_no_flops() -> None:
    assert not hasattr(ScriptedBackend(lambda *_: "x"), "flops")


CELLS = {
    "a/n=1": [record("a/n=1", 90, True), record("a/n=1", 90, False)],
    "a/n=2": [record("a/n=2", 190, True), record("a/n=2", 190, True)],
    "b/n=1": [record("b/n=1", 90, False, verifier=60)],
    "c": [record("c", 500, True)],
}
FAMILIES = {"a": ("a/n=1", "a/n=2"), "b": ("b/n=1",), "c": ("c",), "not run": ("d",)}


def test_matched_at_a_budget_between_two_points_is_interpolated_and_says_so() -> None:
    a, b, c = matched(CELLS, FAMILIES, 175)
    assert (a.below, a.above, a.share, a.accuracy) == ("a/n=1", "a/n=2", 0.75, 0.875)
    assert a.how == "between a/n=1 (100.0 tokens) and a/n=2 (200.0), 75% of the way"
    assert (b.below, b.below_cost, b.above, b.accuracy) == ("b/n=1", 160.0, None, 0.0)
    assert b.how == "b/n=1, its dearest cell, at 160.0 tokens (91% of the budget)"
    assert (c.below, c.above, c.accuracy) == (None, "c", None) and c.how.startswith("cannot be had")


def test_matched_at_a_points_own_cost_is_that_point() -> None:
    a = matched(CELLS, FAMILIES, 100)[0]
    assert (a.below, a.share, a.accuracy) == ("a/n=1", 0.0, 0.5)
    by_calls = matched(CELLS, FAMILIES, 4, "model_calls")[0]
    assert by_calls.below_cost == 4 and by_calls.by == "model_calls"


def test_families_come_from_the_study() -> None:
    cells = [{"name": "a/n=1", "family": "a"}, {"name": "c", "family": "c"}, {"name": "a/n=2", "family": "a"}]
    assert families({"config": {"cells": cells}}) == {"a": ("a/n=1", "a/n=2"), "c": ("c",)}
