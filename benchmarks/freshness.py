"""What it costs to notice that a model has changed: ``python -m benchmarks.freshness [--device cuda]``.

The two looks that are taken when work begins (values, structure), beside one decoding step of one row; and what a
change costs: a new twin with its packed weights. Every sample is kept; the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

import structdecode as sd
from benchmarks import models
from structdecode.backends.transformers.freshness import structure, values
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.types import Candidate

RESULTS = Path(__file__).parent / "results"
STEPS = 64


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Milliseconds of each round, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    return times[1:]


def write(backend: Any, tokens: int) -> None:
    """One row of ``tokens`` tokens; the prompt is in the cache."""

    async def run() -> None:
        async with backend.open(sd.Prompt("How many?", [Image.new("RGB", (64, 64))])) as session:
            row = Row(Candidate(), 0, tokens)
            await session.extend([row], GenerationRequest(sd.Stage("open", "", ""), sd.Sampling()))

    asyncio.run(run())


def measure(backend: Any, rounds: int) -> dict[str, Any]:
    model, device = backend.model, torch.device(backend.model.device)
    backend.codec.end_of_text = frozenset()
    write(backend, 1)
    looks = {"values": timed(lambda: values(model), device, rounds)}
    looks["structure"] = timed(lambda: structure(model), device, rounds)
    short, long = (timed(lambda n=n: write(backend, n), device, rounds) for n in (1, 1 + STEPS))  # type: ignore[misc]
    step = (median(long) - median(short)) / STEPS
    weight = next(model.parameters())

    def change_and_write() -> None:
        weight.data.view(-1)[0] += 1
        write(backend, 1)

    changed = timed(change_and_write, device, rounds)
    look = median(looks["values"]) + median(looks["structure"])
    return {
        "model": Path(backend.name).parent.name if "/" in backend.name else backend.name, "parameters": sum(p.numel() for p in model.parameters()), "dtype": str(model.dtype),
        "values_ms": median(looks["values"]), "structure_ms": median(looks["structure"]), "step_ms": step,
        "look_in_steps": look / step, "call_of_one_token_ms": median(short), "same_after_a_change_ms": median(changed),
        "samples_ms": {**looks, "one": short, "many": long, "changed": changed},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cuda measures the shape of Llama-3.2-11B-Vision")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    builds: list[Callable[[], Any]] = [models.pocket, models.medium]
    if cuda:
        builds = [lambda: models.eleven_billion(options.device)]
    found = {
        "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "models": [measure(build(), options.rounds) for build in builds],
    }  # fmt: skip
    path = RESULTS / f"freshness-{'gpu' if cuda else 'cpu'}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    for each in found["models"]:
        print({key: value for key, value in each.items() if key != "samples_ms"})


if __name__ == "__main__":
    main()
