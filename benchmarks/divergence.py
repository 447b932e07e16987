"""Does an answer depend on what is decoded beside it? ``python -m benchmarks.divergence`` (law 4).

In float32 it must not: the same questions are searched at several concurrencies, with one thread and two, stopped in
the middle and resumed, and by the other engine; answers, texts and paths are compared. In lower precision a row's
logits differ with the batch that it is computed in, and now and then a draw or a choice falls on the other side: there
the rate is measured, each question alone and among others. Beside it: how far the scores of the same tokens are apart,
and how many choices come so close to the resolution (`structdecode.core.resolution`) that this much could turn them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import structdecode as sd
from benchmarks import speed
from structdecode.core.calibration import ANY_STAGE, Calibration, ProbabilityMap, VerifierIdentity
from structdecode.core.labels import label_of
from structdecode.core.lookup import load_backend
from structdecode.core.plain import plain
from structdecode.core.settings import build
from structdecode.core.types import Candidate
from structdecode.core.types import Path as TreePath
from structdecode.pocket import world
from structdecode.verifiers.blindfold import Blindfold
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.calibrated import Calibrated
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.consistency import Consistency
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.generative import Generative
from structdecode.verifiers.grounding import Grounding
from structdecode.verifiers.image_text import ImageText
from structdecode.verifiers.label_read import LabelRead
from structdecode.verifiers.log_prob import LogProb, PiCSAR
from structdecode.verifiers.on_model import OnModel
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.premises import Premises
from structdecode.verifiers.probe import Probe
from structdecode.verifiers.recipes import OutcomeReward, ProcessReward
from structdecode.verifiers.reward_model import RewardModel
from structdecode.verifiers.round_trip import RoundTrip
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge
from structdecode.verifiers.tool import Tool

SAMPLED = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 120}
JUDGE = {"max_tokens": 24}


def shortest(candidate: Candidate) -> float:
    return -float(len(candidate.text))


def arms(made: Mapping[str, Any] | None = None, n: int = 3) -> dict[str, Any]:
    """Every strategy, and every verifier in the search that depends on it most: each choice seeds what follows.

    Args:
        made: further verifiers by name: those that need a file or a server (`with_files`).
    """
    judge = SelfJudge(**JUDGE)  # type: ignore[arg-type]
    verifiers: dict[str, Any] = {
        "log-prob": LogProb(), "self-certainty": build("verifiers", "self-certainty"), "picsar": PiCSAR(), "p-true": PTrue(),
        "on-model": OnModel("pocket", PTrue()),
        "self-judge": judge, "self-judge, round robin": SelfJudge(tournament="round-robin", **JUDGE),  # type: ignore[arg-type]
        "rule": Rule(r"[02468]\.?$"), "agreement": build("verifiers", "agreement"),
        "callable": FunctionVerifier(shortest), "ensemble": Ensemble({"log-prob": LogProb(), "p-true": PTrue()}),
        "by-stage": ByStage({"CAPTION": PTrue()}, LogProb()),
        "label-read": LabelRead(kind="choice", options=("right", "wrong"), right=("right",)),
        "generative": Generative(n=2, max_tokens=24), "consistency": Consistency(n=2, max_tokens=8), "round-trip": RoundTrip(),
        "blindfold": Blindfold(max_tokens=8), "blindfold, agreement": Blindfold("agreement", samples=3, max_tokens=8),
        "grounding": Grounding(), "premises": Premises(), "math": build("verifiers", "math"), "tool": Tool(function=shortest),
    }  # fmt: skip
    return {
        "direct": build("strategies", "direct"), "cot": build("strategies", "cot", SAMPLED),
        "staged, greedy": build("strategies", "staged", {"max_tokens": 120}),
        "staged, sampled": build("strategies", "staged", SAMPLED),
        "self-consistency": build("strategies", "self-consistency", {**SAMPLED, "n": 2 * n}),
        "best-of-n, log-prob": build("strategies", "best-of-n", {**SAMPLED, "n": 2 * n, "verifier": LogProb()}),
        "best-of-n, self-judge": build("strategies", "best-of-n", {**SAMPLED, "n": n, "verifier": judge}),
        "best-of-n, p-true by softmax": build(
            "strategies", "best-of-n", {**SAMPLED, "n": n, "verifier": PTrue(), "selector": {"softmax": {"temperature": 0.1}}}
        ),
        "exhaustive, log-prob": build("strategies", "exhaustive", {**SAMPLED, "candidates": 2}),
        "sentence-beam, log-prob": build("strategies", "sentence-beam", {**SAMPLED, "candidates": n}),
        "stage-beam k=2, log-prob": build("strategies", "stage-beam", {**SAMPLED, "candidates": n, "beams": 2}),
        **{
            f"stage-beam, {name}": build("strategies", "stage-beam", {**SAMPLED, "candidates": n, "verifier": verifier})
            for name, verifier in {**verifiers, **(made or {})}.items()
        },
    }  # fmt: skip


def with_files(directory: Path) -> dict[str, Any]:
    """Verifiers that need files, which are made in a directory, by name."""
    return {
        "reward-model": RewardModel(reward_model(directory)), "image-text": ImageText(dual_encoder(directory)),
        "probe": Probe(probe(directory)), "calibrated": Calibrated(PTrue(), calibration(directory)),
        "process-reward": ProcessReward("pocket", recipe(directory, "step")),
        "outcome-reward": OutcomeReward("pocket", recipe(directory, "answer")),
    }  # fmt: skip


def calibration(directory: Path) -> str:
    """A logistic curve for p-true that nobody fitted."""
    identity = VerifierIdentity(label_of(PTrue()), plain(PTrue()))
    found = Calibration(identity, "platt", {ANY_STAGE: ProbabilityMap(slope=2.0, intercept=-1.0)}, {}, {}, {})
    found.save(directory / "calibration.json")
    return str(directory / "calibration.json")


def recipe(directory: Path, level: str) -> str:
    """The embedded model as a released reward model that answers yes or no."""
    told = {
        "about": "p-true's words as a recipe", "level": level, "tokens": {"labels": {"yes": 1, "no": 0}},
        "question": "{question}\n{step}\nIs it right? Answer yes or no.",
    }  # fmt: skip
    path = directory / f"{level}.yaml"
    path.write_text(json.dumps(told))
    return str(path)


def reward_model(directory: Path) -> str:
    """The embedded model with a head that nobody trained: a verifier with weights of its own."""
    from structdecode.core.schemas import LLAVA_O1
    from structdecode.training.reward_model.model import from_base, save
    from structdecode.verifiers.reward_model.config import RewardConfig

    model, processor = from_base("pocket")
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.value.weight, std=0.1)
    save(model, processor, RewardConfig.of(LLAVA_O1), directory / "reward-model")
    return str(directory / "reward-model")


def dual_encoder(directory: Path) -> str:
    """A tiny CLIP with random weights."""
    from tests.verifiers.dual_encoders import save

    return str(save("clip", directory / "dual-encoder"))


def probe(directory: Path) -> str:
    """One on the embedded model's hidden states, with weights that nobody trained."""
    from structdecode.core.schemas import LLAVA_O1
    from structdecode.training.probe.run import save
    from structdecode.verifiers.probe import GatedLinear, ProbeConfig

    drawn = np.random.default_rng(0).normal(0, 0.05, (2, 2 * 128))
    config = ProbeConfig.of(LLAVA_O1, separator=LLAVA_O1.separator, layers=(4, 8), width=128)
    save(GatedLinear(drawn, np.zeros(2)), config, directory / "probe")
    return str(directory / "probe")


def questions(n: int) -> list[sd.Prompt]:
    return [sd.Prompt(s.question.text, s.render()) for s in itertools.islice(world.scenes("test"), n)]


@dataclass(frozen=True)
class Condition:
    """What is not to matter.

    Attributes:
        stop_after: the share of the questions after which all that is under way is given up, and resumed later.
    """

    concurrency: int
    threads: int = 1
    engine: str = "slots"
    stop_after: float | None = None

    @property
    def name(self) -> str:
        stopped = ", stopped and resumed" if self.stop_after is not None else ""
        return f"{self.engine}, {self.concurrency} at once, {self.threads} thread{'s' * (self.threads > 1)}{stopped}"


REFERENCE = Condition(32)
CONDITIONS = (
    Condition(1), Condition(5), Condition(32, threads=2), Condition(32, stop_after=0.4), Condition(8, engine="plain"),
)  # fmt: skip


def results(
    backend: Any, prompts: Sequence[sd.Prompt], strategy: Any, condition: Condition, seed: int = 5
) -> list[sd.Result]:
    """All questions' results, from an empty prefix cache."""
    found: dict[int, sd.Result] = {}

    async def run(wanted: Sequence[int], stop_at: int) -> None:
        stream = sd.decode_many(
            [prompts[i] for i in wanted], backend=backend, strategy=strategy, seed=seed,
            concurrency=condition.concurrency, sample_ids=[str(i) for i in wanted],
        )  # fmt: skip
        async for at, result in stream:
            found[wanted[at]] = result
            if len(found) >= stop_at:
                break
        await stream.aclose()

    torch.set_num_threads(condition.threads)
    backend.prefixes.clear()
    if condition.stop_after is not None:
        asyncio.run(run(range(len(prompts)), int(len(prompts) * condition.stop_after)))
    asyncio.run(run([i for i in range(len(prompts)) if i not in found], len(prompts)))
    return [found[i] for i in range(len(prompts))]


def tree(result: sd.Result) -> list[Any]:
    """The whole search but for its numbers: every candidate's path and text, and the ranking."""
    events = result.trace.events
    grown = [(tuple(e["path"]), e["stage"], e["text"]) for e in events if e["kind"] == "candidate"]
    return [sorted(grown), [(r.candidate.path, r.paths) for r in result.candidates]]


def differences(first: Sequence[sd.Result], second: Sequence[sd.Result]) -> dict[str, int]:
    """On how many questions the two differ: in the chosen path, its text, the answer, or anywhere in the tree."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.best is not None and b.best is not None]
    return {
        "questions": len(pairs),
        "paths": sum(a.best.path != b.best.path for a, b in pairs),  # type: ignore[union-attr]
        "texts": sum(a.best.text != b.best.text for a, b in pairs),  # type: ignore[union-attr]
        "answers": sum(a.answer != b.answer for a, b in pairs),
        "trees": sum(tree(a) != tree(b) for a, b in pairs),
    }


def rounds(result: sd.Result) -> list[dict[TreePath, float]]:
    return [
        {tuple(p): v for p, v in zip(e["paths"], e["values"], strict=True) if v is not None}
        for e in result.trace.events
        if e["kind"] == "score"
    ]


def resolutions(result: sd.Result) -> list[float]:
    return [e["resolution"] for e in result.trace.events if e["kind"] == "score"]


def noise(first: Sequence[sd.Result], second: Sequence[sd.Result]) -> float:
    """The largest difference between two scores of the same tokens, relative to the larger of 1 and their sizes."""
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        if tree(a) != tree(b):
            continue
        for one, other in zip(rounds(a), rounds(b), strict=True):
            for path in one.keys() & other.keys():
                scale = max(1.0, abs(one[path]), abs(other[path]))
                largest = max(largest, abs(one[path] - other[path]) / scale)
    return largest


def choices(found: Sequence[sd.Result], noise: float) -> dict[str, Any]:
    """Choices among different texts: how many are ties at the resolution, and how many could still be turned.

    Open is a choice where a candidate's distance to the best score is within twice the noise of the resolution.
    """
    made = tied = left_open = 0
    for result in found:
        texts = {tuple(e["path"]): e["text"] for e in result.trace.events if e["kind"] == "candidate"}
        for scored, resolution in zip(rounds(result), resolutions(result), strict=True):
            best = max(scored, key=lambda path: scored[path], default=None)
            rivals = [p for p in scored if best is not None and texts.get(p) != texts.get(best)]
            if best is None or not rivals:
                continue
            gaps = [(scored[best] - scored[p]) / max(1.0, abs(scored[best]), abs(scored[p])) for p in rivals]
            made += 1
            tied += min(gaps) <= resolution
            left_open += noise > 0 and any(abs(gap - resolution) <= 2 * noise for gap in gaps)
    return {"choices": made, "tied_at_the_resolution": tied, "left_open": left_open}


def saved(found: Sequence[sd.Result]) -> dict[str, int]:
    asked = sum(r.usage.verifier_calls for r in found)
    spared = sum(r.usage.verifier_calls_saved for r in found)
    return {"verifier_calls": asked, "verifier_calls_saved": spared}


def float32_rows(
    prompts: Sequence[sd.Prompt], strategies: Mapping[str, Any], say: Callable[[str, Any], None], some: int
) -> dict[str, Any]:
    """Per arm: differences to the reference under every condition (five at once and the plain engine: ``some`` questions)."""
    backends = {
        engine: load_backend(None, device="cpu", dtype="float32", engine=engine)  # type: ignore[arg-type]
        for engine in ("slots", "plain")
    }
    table: dict[str, Any] = {}
    for name, strategy in strategies.items():
        reference = results(backends[REFERENCE.engine], prompts, strategy, REFERENCE)
        row: dict[str, Any] = {"conditions": {}, **saved(reference)}
        largest = 0.0
        for condition in CONDITIONS:
            asked = some if condition.engine == "plain" or condition.concurrency == 5 else len(prompts)
            other = results(backends[condition.engine], prompts[:asked], strategy, condition)
            row["conditions"][condition.name] = differences(reference[:asked], other)
            largest = max(largest, noise(reference[:asked], other))
        row["score_noise"] = largest
        row |= choices(reference, largest)
        table[name] = row
        say(name, row)
    return table


def low_precision_rows(
    prompts: Sequence[sd.Prompt], strategies: Mapping[str, Any], device: str, say: Callable[[str, Any], None]
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for dtype in ("bfloat16", "float16"):
        backend = load_backend(None, device=device, dtype=dtype)
        for name, strategy in strategies.items():
            alone = results(backend, prompts, strategy, Condition(1))
            crowd = results(backend, prompts, strategy, REFERENCE)
            row = {**differences(alone, crowd), "score_noise": noise(alone, crowd)}
            row |= choices(crowd, row["score_noise"])
            table.setdefault(dtype, {})[name] = row
            say(f"{dtype} {name}", row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--some", type=int, default=200, help="questions of the slow conditions")
    parser.add_argument("--low", type=int, default=100, help="questions in lower precision; 0: leave that out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=speed.RESULTS / "divergence.json")
    parser.add_argument("--arms", nargs="*", help="only these (see `arms`)")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": speed.cpu_name(), "device": arguments.device,
        "torch": torch.__version__, "python": platform.python_version(), "model": "pocket", "seed": 5,
        "reference": REFERENCE.name,
    }  # fmt: skip
    out = arguments.out

    def say(name: str, row: Any) -> None:
        print(name, json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as place:
        strategies = arms(with_files(Path(place)))
        if arguments.arms:
            strategies = {name: strategies[name] for name in arguments.arms}
        if arguments.questions:
            report["float32"] = float32_rows(questions(arguments.questions), strategies, say, arguments.some)
        out.write_text(json.dumps(report, indent=1) + "\n")
        if arguments.low:
            report |= low_precision_rows(questions(arguments.low), strategies, arguments.device, say)
            out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
