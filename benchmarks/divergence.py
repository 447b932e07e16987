"""How often a question's tokens depend on what is decoded beside it, by precision: ``python -m benchmarks.divergence``.

In float32 never (law 4, tested). In lower precision a row's logits differ in their last bits with the batch that it
is computed in, and now and then a draw falls on the other side. Each question is answered alone and among 64 others.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import time
from collections.abc import Sequence
from typing import Any

import torch

import structdecode as sd
from benchmarks import speed
from structdecode import registry
from structdecode.assembly import load_backend
from structdecode.pocket import world


def answers(backend: Any, prompts: Sequence[sd.Prompt], strategy: Any, concurrency: int) -> list[sd.Result]:
    found: list[Any] = [None] * len(prompts)

    async def run() -> None:
        async for at, result in sd.decode_many(prompts, backend=backend, strategy=strategy, concurrency=concurrency):
            found[at] = result

    backend.prefixes.clear()
    asyncio.run(run())
    return found


def compare(alone: Sequence[sd.Result], crowd: Sequence[sd.Result]) -> dict[str, Any]:
    """Shares of questions whose tokens, or whose answers, are not the same; tokens up to the first difference."""
    tokens = agreeing = 0
    differing = 0
    for one, other in zip(alone, crowd, strict=True):
        assert one.best is not None and other.best is not None
        first, second = one.best.token_ids, other.best.token_ids
        same = next(
            (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
        )
        differing += first != second
        agreeing += same
        tokens += same + (first != second)
    return {
        "questions": len(alone), "tokens_differ": differing / len(alone),
        "answers_differ": sum(a.answer != b.answer for a, b in zip(alone, crowd, strict=True)) / len(alone),
        "divergences_per_1000_tokens": 1000 * (tokens - agreeing) / max(tokens, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scenes = itertools.islice(world.scenes("test"), arguments.questions)
    prompts = [sd.Prompt(scene.question.text, scene.render()) for scene in scenes]
    strategies = {
        "greedy": registry.build("strategies", "staged", {"temperature": 0, "max_tokens": 120}),
        "sampled": registry.build("strategies", "staged", {"temperature": 1.0, "top_p": 1.0, "max_tokens": 120}),
    }
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": speed.cpu_name(), "device": arguments.device,
        "torch": torch.__version__, "python": platform.python_version(), "model": "pocket", "precision": {},
    }  # fmt: skip
    for dtype in ("float32", "bfloat16", "float16"):
        backend = load_backend(None, device=arguments.device, dtype=dtype)
        for name, strategy in strategies.items():
            found = compare(answers(backend, prompts, strategy, 1), answers(backend, prompts, strategy, 64))
            report["precision"].setdefault(dtype, {})[name] = found
            print(f"{dtype:9} {name:8}", found, flush=True)
    (speed.RESULTS / "divergence.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
