"""Time and tokens of each strategy, and stage beam N=4 beside two other ways to run it: ``make bench``."""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import structdecode as sd
from benchmarks import baselines, models
from structdecode import registry
from structdecode.pocket import world

RESULTS = Path(__file__).parent / "results"
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
    strategy = registry.build("strategies", name, {**SETTINGS[name], "max_tokens": 100})

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
    backend = models.medium() if model == "mllama-48m" else models.pocket()
    backend.codec.end_of_text = frozenset()  # stages of a fixed length, so that the work is equal
    tokens, n, rounds = 16, 4, 5
    scene = next(world.scenes("test"))
    picture = scene.render() if model == "pocket" else Image.effect_noise((336, 336), 60).convert("RGB")
    prompt = sd.Prompt(scene.question.text, picture)
    stages = tuple(
        sd.Stage(s.name, s.begin, f"<<never {s.name}>>", sd.Sampling(max_tokens=tokens)) for s in sd.LLAVA_O1.stages
    )
    schema = sd.Schema("fixed", stages)
    begins = [list(backend.codec.encode(stage.begin)) for stage in stages]
    strategy = registry.build("strategies", "stage-beam", {"candidates": n})
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: (
            backend.prefixes.clear(),
            sd.decode(prompt, backend=backend, schema=schema, strategy=strategy),
        ),
        "upstream": lambda: baselines.Upstream(backend, prompt, begins, tokens).stage_beam(n),
        "transformers": lambda: baselines.TransformersUser(backend, prompt, begins, tokens).stage_beam(n),
    }
    result = sd.decode(prompt, backend=backend, schema=schema, strategy=strategy)
    assert result.usage.generated_tokens == tokens * n * len(stages)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_:
                samples[name].append(time.perf_counter() - start)
    ratios = {
        f"{name}_over_ours": [b / a for a, b in zip(samples["ours"], samples[name], strict=True)]
        for name in ("upstream", "transformers")
    }
    report = {
        "model": model, "candidates": n, "tokens_a_stage": tokens, "seconds": samples, "ratios": ratios,
        "median_ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"stage_beam_{model}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(model, {name: f"{min(v):.2f} / {statistics.median(v):.2f} / {max(v):.2f}" for name, v in ratios.items()})
