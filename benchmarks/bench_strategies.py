"""Time and tokens of each strategy, and stage beam N=4 beside two other ways to run it: ``make bench``."""

from __future__ import annotations

import itertools
import json
import platform
import time
from typing import Any

import pytest
import torch

import structdecode as sd
from benchmarks import models, speed
from structdecode.core.settings import build
from structdecode.pocket import world

SETTINGS: dict[str, dict[str, Any]] = {
    "direct": {}, "cot": {}, "staged": {}, "best-of-n": {"n": 4}, "self-consistency": {"n": 4},
    "stage-beam": {"candidates": 4}, "sentence-beam": {"candidates": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def pocket() -> Any:
    torch.set_num_threads(1)
    return models.pocket()


@pytest.mark.parametrize("name", SETTINGS)
def test_strategy(benchmark: Any, pocket: Any, name: str) -> None:
    """Twelve held-out questions on the pocket model."""
    prompts = [sd.Prompt(s.question.text, s.render()) for s in itertools.islice(world.scenes("test"), 12)]
    strategy = build("strategies", name, {**SETTINGS[name], "max_tokens": 100})

    def run() -> list[sd.Result]:
        pocket.prefixes.clear()  # every round encodes its pictures
        return [sd.decode(p, backend=pocket, strategy=strategy, sample_id=str(i)) for i, p in enumerate(prompts)]

    results = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens_per_question"] = sum(r.usage.generated_tokens for r in results) / len(results)
    benchmark.extra_info["prefilled_per_question"] = sum(r.usage.prefilled_tokens for r in results) / len(results)


@pytest.mark.parametrize("model", ["pocket", "mllama-48m"])
def test_stage_beam_beside_others(model: str) -> None:
    """Same model, same picture, same number of tokens (random draws, fixed stage lengths); interleaved rounds."""
    torch.set_num_threads(2 if model == "mllama-48m" else 1)
    tokens, n, rounds = 16, 4, 5
    bench = speed.Bench(
        models.medium() if model == "mllama-48m" else models.pocket(), tokens, tiles=4 if model == "mllama-48m" else 1
    )
    ours = bench.ours("stage-beam", candidates=n)
    assert ours().usage.generated_tokens == tokens * n * len(bench.schema.stages)
    seconds = speed.interleaved(
        {
            "ours": ours,
            "upstream": lambda: bench.upstream.stage_beam(n),
            "transformers": lambda: bench.user.stage_beam(n),
        },
        rounds,
    )
    ratios = {f"{name}_over_ours": speed.ratio(seconds[name], seconds["ours"]) for name in ("upstream", "transformers")}
    report = {
        "model": model, "candidates": n, "tokens_a_stage": tokens, "seconds": seconds, "ratios": ratios,
        "machine": {"cpu": speed.cpu_name(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    speed.RESULTS.mkdir(exist_ok=True)
    (speed.RESULTS / f"stage_beam_{model}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(model, {name: "{min:.2f} / {median:.2f} / {max:.2f}".format(**found) for name, found in ratios.items()})
