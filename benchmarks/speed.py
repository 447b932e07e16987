"""How fast, beside what else there is: ``make bench-cpu``, ``make bench-gpu``.

Everything in one run on one machine: same model, same token counts (random weights, stages of a fixed length),
the ways interleaved, every sample kept. Writes results/<device>.json; `speed_report.py` makes the table and plots.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import structdecode as sd
from benchmarks import baselines, models
from structdecode.core.settings import build

RESULTS = Path(__file__).parent / "results"
QUESTION = (
    "How many red squares are there, and how many blue circles? Look at all of the picture and count the objects."
)
Way = Callable[[], object]


class Bench:
    """One model, one kind of prompt, stages of ``tokens`` tokens."""

    def __init__(self, backend: Any, tokens: int = 32, tiles: int = 4) -> None:
        self.backend, self.tokens = backend, tokens
        backend.codec.end_of_text = frozenset()  # nothing ends a stage but its length
        # random weights write special tokens too; an image token in a text that is judged would ask for a picture
        backend.codec.decode = lambda ids: backend.codec.tokenizer.decode(list(ids), skip_special_tokens=True)
        self.prompt = sd.Prompt(QUESTION, picture(0, tiles))
        stages = tuple(
            sd.Stage(s.name, s.begin, f"<<never {s.name}>>", sd.Sampling(max_tokens=tokens)) for s in sd.LLAVA_O1.stages
        )
        self.schema = sd.Schema("fixed", stages)
        begins = [list(backend.codec.encode(stage.begin)) for stage in stages]
        self.upstream = baselines.Upstream(backend, self.prompt, begins, tokens)
        self.user = baselines.TransformersUser(backend, self.prompt, begins, tokens)

    def ours(self, strategy: str, **settings: Any) -> Callable[[], sd.Result]:
        """A search from a cold start: nothing of the prompt is in the cache."""
        built = build("strategies", strategy, settings)

        def way() -> sd.Result:
            self.backend.prefixes.clear()
            return sd.decode(self.prompt, backend=self.backend, schema=self.schema, strategy=built)

        return way

    def one_stage(self, n: int) -> Way:
        schema = sd.Schema("one", self.schema.stages[:1])
        built = build("strategies", "best-of-n", {"n": n})

        def way() -> None:
            self.backend.prefixes.clear()
            sd.decode(self.prompt, backend=self.backend, schema=schema, strategy=built)

        return way

    def in_flight(self, questions: int, at_once: int) -> Way:
        """Staged answers to different questions about different pictures."""
        prompts = [sd.Prompt(f"{QUESTION} {i}", picture(i)) for i in range(questions)]
        strategy = build("strategies", "staged", {"temperature": 1.0})

        async def run() -> None:
            async for _ in sd.decode_many(
                prompts, backend=self.backend, schema=self.schema, strategy=strategy, concurrency=at_once
            ):
                pass

        def way() -> None:
            self.backend.prefixes.clear()
            asyncio.run(run())

        return way


def picture(seed: int, tiles: int = 4) -> Image.Image:
    sizes = {1: (168, 168), 2: (336, 168), 4: (336, 336)}
    width, height = sizes[tiles]
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def interleaved(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, one after another in every round; a first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - start)
        print(f"  round {round_}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items() if s), flush=True)
    return seconds


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Of two ways' seconds in the same round: median, least and greatest."""
    values = sorted(a / b for a, b in zip(over, under, strict=True))
    return {"median": statistics.median(values), "min": values[0], "max": values[-1]}


def peak_bytes(way: Way) -> int:
    """The most memory that was in use at once while a way ran, beyond what was before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    way()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes, the best of several."""
    source = torch.empty(64 << 20, dtype=torch.uint8, device=device).random_()
    target, best = torch.empty_like(source), 0.0
    for _ in range(12):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


def floor(bench: Bench, rows: int, device: str) -> dict[str, float]:
    """Bytes that a decoding step has to move (weights once, shared keys and values once), and our step beside it."""
    model = bench.backend.model
    weights = sum(p.nbytes for name, p in model.named_parameters() if "vision" not in name and "projector" not in name)
    bench.ours("stage-beam", candidates=rows)()
    known = next(iter(bench.backend.prefixes._known.values()))
    own = rows * 2 * bench.tokens * known.segment.nbytes / known.segment.buffers[0][0].shape[2]
    moved = weights + known.nbytes + own
    steps: list[float] = []
    forward = bench.backend.scheduler.forward
    step_ = forward.step

    def timed(*inputs: Any) -> Any:
        start = time.perf_counter()
        output = step_(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        steps.append(time.perf_counter() - start)
        return output

    forward.step = timed
    try:
        bench.ours("stage-beam", candidates=rows)()
    finally:
        del forward.step
    step, bandwidth = statistics.median(steps), copy_bandwidth(device)
    return {"bytes": moved, "bytes_per_second": bandwidth, "floor_seconds": moved / bandwidth, "step_seconds": step,
            "step_over_floor": step * bandwidth / moved}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """Something that a search's time and memory grow along."""

    points: Sequence[int]
    way_at: Callable[[Bench, int], Way]
    rounds: int = 2


AXES = {
    "candidates": Axis([1, 2, 4, 8, 16, 32], lambda bench, n: bench.ours("stage-beam", candidates=n)),
    "tiles": Axis([1, 2, 4], lambda bench, t: Bench(bench.backend, tiles=t).ours("stage-beam", candidates=8)),
    "in_flight": Axis([1, 4, 16, 64], lambda bench, q: bench.in_flight(q, q), 1),
    "stage_tokens": Axis(
        [16, 32, 64, 128], lambda bench, t: Bench(bench.backend, tokens=t).ours("stage-beam", candidates=8)
    ),
}


def growth(bench: Bench, name: str, device: str) -> dict[str, Any]:
    """Seconds along an axis, the points interleaved; peak bytes of each in a process of its own.

    An allocator keeps pages that were freed: in one process only the largest point so far would show.
    """
    axis = AXES[name]
    seconds = interleaved({str(point): axis.way_at(bench, point) for point in axis.points}, axis.rounds)
    peaks = {}
    for point in axis.points:
        command = [sys.executable, "-m", "benchmarks.speed", "--device", device, "--peak", name, str(point)]
        peaks[str(point)] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"seconds": seconds, "peak_bytes": peaks}


def print_peak(device: str, name: str, point: int) -> None:
    """For `growth`: the bytes that one point of an axis takes beyond the model."""
    bench = Bench(model_for(device))
    Bench(bench.backend, tokens=1).ours("staged")()  # packs weights, loads libraries
    bench.backend.prefixes.clear()
    print(peak_bytes(AXES[name].way_at(bench, point)))


def model_for(device: str) -> Any:
    return models.eleven_billion(device) if device == "cuda" else models.medium()


def measure(device: str, rounds: int, quick: bool) -> dict[str, Any]:
    bench = Bench(model_for(device))
    judge = {"candidates": 4, "verifier": build("verifiers", "self-judge", {"max_tokens": 24})}
    print("stage beam", flush=True)
    beams = interleaved(
        {
            "ours.n1": bench.ours("stage-beam", candidates=1),
            "ours.n8": bench.ours("stage-beam", candidates=8),
            "transformers.n8": lambda: bench.user.stage_beam(8),
            "transformers_static.n8": lambda: bench.user.stage_beam(8, cache="static"),
            "ours.judge.n4": bench.ours("stage-beam", **judge),
            "upstream.judge.n4": lambda: bench.upstream.stage_beam(4, judge_tokens=24),
        },
        rounds,
    )
    print("one batch, best-of-n", flush=True)
    batches = interleaved(
        {
            "ours.batch8": bench.one_stage(8),
            "generate.batch8": lambda: bench.user.generate(bench.prompt, bench.user.begins[0], 32, 8),
            "ours.best_of_n.n8": bench.ours("best-of-n", n=8),
            "upstream.best_of_n.n8": lambda: bench.upstream.best_of_n(8),
        },
        rounds,
    )
    print("in flight", flush=True)
    flights = interleaved({"together": bench.in_flight(32, 32), "serial": bench.in_flight(32, 1)}, max(2, rounds // 2))
    ratios = {
        "upstream_over_ours.best_of_n.n8": ratio(batches["upstream.best_of_n.n8"], batches["ours.best_of_n.n8"]),
        "upstream_over_ours.stage_beam_judge.n4": ratio(beams["upstream.judge.n4"], beams["ours.judge.n4"]),
        "transformers_over_ours.stage_beam_logprob.n8": ratio(beams["transformers.n8"], beams["ours.n8"]),
        "transformers_static_over_ours.stage_beam_logprob.n8": ratio(beams["transformers_static.n8"], beams["ours.n8"]),
        "ours.stage_beam_logprob.n8_over_n1": ratio(beams["ours.n8"], beams["ours.n1"]),
        "ours.in_flight_32_over_serial": ratio(flights["serial"], flights["together"]),
        "ours.batch8_over_generate": ratio(batches["ours.batch8"], batches["generate.batch8"]),
        "vllm_cpu_over_ours.stage_beam.n8": None,
    }
    print("growth", flush=True)
    grown = {} if quick else {name: growth(bench, name, device) for name in AXES}
    floors = {str(rows): floor(bench, rows, device) for rows in (1, 8)}
    ratios["ours.decode_step.n8_over_n1"] = ratio([floors["8"]["step_seconds"]], [floors["1"]["step_seconds"]])
    ratios["ours.decode_step_over_floor.n8"] = ratio([floors["8"]["step_seconds"]], [floors["8"]["floor_seconds"]])
    return {"ratios": ratios, "seconds": {**beams, **batches, **flights}, "growth": grown, "floor": floors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="the ratios alone, not the curves")
    parser.add_argument("--peak", nargs=2, metavar=("AXIS", "POINT"), help="only print the peak memory of one point")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        return print_peak(arguments.device, arguments.peak[0], int(arguments.peak[1]))
    report = {
        "machine": {"cpu": cpu_name(), "threads": arguments.threads, "system": platform.platform(terse=True),
                    "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else None},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "python": platform.python_version(), "structdecode": sd.__version__},
        "date": time.strftime("%Y-%m-%d"), "rounds": arguments.rounds,
        **measure(arguments.device, arguments.rounds, arguments.quick),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{'gpu' if arguments.device == 'cuda' else 'cpu'}.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    for name, value in report["ratios"].items():
        print(f"{name:55} " + ("-" if value is None else "{median:.2f} ({min:.2f} to {max:.2f})".format(**value)))
    print(f"written: {out}")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
