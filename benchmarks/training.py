"""Speed of fine-tuning an 11B-shaped Mllama: ``python -m benchmarks.training`` (on CUDA; ``--model medium`` on a CPU).

Random weights, pictures of four tiles, answers of one length. Two recipes: LoRA on the language model, and full
fine-tuning of one group of layers (all of them need several cards). Through the trainer of ``structdecode train``.
Writes results/training-{gpu,cpu}.json: tokens/s, seconds a step, peak memory, model-FLOPs utilisation.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from benchmarks import models
from structdecode.backends.transformers.collate import Collator, Example
from structdecode.core.environment import versions
from structdecode.core.schemas import LLAVA_O1
from structdecode.pocket import world
from structdecode.training.sft.adapters import with_adapters
from structdecode.training.sft.base import freeze_all_but
from structdecode.training.sft.data import count_trained
from structdecode.training.sft.recipe import Recipe, load_recipe
from structdecode.training.sft.trainer import StagedTrainer, TrainingJob, training_arguments

RESULTS = Path(__file__).parent / "results"
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s by the makers' data sheets."""

LAST_LAYERS = (r"language_model\.layers\.(3[2-9])\.",)
"""One layer group of the 11B shape: the last eight of forty."""


@dataclass
class Same:
    """``rows`` examples of about ``tokens`` tokens with a picture that fills four tiles."""

    rows: int
    tokens: int
    side: int

    def __post_init__(self) -> None:
        self.lengths = np.full(self.rows, self.tokens)
        self.pictures = np.ones(self.rows, dtype=int)
        scene = next(world.scenes("train"))
        words = (scene.stages["REASONING"] + " ") * (self.tokens // 8)
        body = " ".join(words.split()[: self.tokens])
        self.answer = f"<SUMMARY> {scene.stages['SUMMARY']} </SUMMARY> <REASONING> {body} </REASONING>"
        self.picture = scene.render().resize((2 * self.side, 2 * self.side), Image.Resampling.BICUBIC)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Example:
        turns = [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "How many red squares are there?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": self.answer}]},
        ]
        return Example(str(index), turns, (self.picture,), f"synthetic:{index}")


class Clock(TrainerCallback):
    """When each step ended, its work on the device done."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.at.append(time.perf_counter())


def recipe_for(name: str, options: argparse.Namespace) -> Recipe:
    given = {
        "batch_size": options.batch, "accumulation": 1, "max_steps": options.steps, "workers": options.workers,
        "eval_every": 0, "accuracy_every": 0, "accuracy_questions": 0, "log_every": 1, "save_every": 10**6,
    }  # fmt: skip
    if options.model == "medium":
        given |= {"precision": "fp32", "gradient_checkpointing": False}
    if name == "lora":
        return load_recipe("llava-o1-11b-lora-1gpu", given)
    layers = LAST_LAYERS if options.model == "11b" else (r"language_model\.layers\.9\.",)
    return load_recipe("llava-o1-11b-lora-1gpu", {**given, "method": "full", "train_only": layers, "lr": 1e-5})


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = models.eleven_billion(device) if options.model == "11b" else models.medium()
    model, processor = backend.model, backend.processor
    recipe = recipe_for(name, options)
    if recipe.method == "lora":
        model = with_adapters(model, recipe)
    else:
        freeze_all_but(model, recipe.train_only)
    data = Same(options.batch * options.steps, options.tokens, backend.processor.image_processor.size["height"])
    clock = Clock()
    with TemporaryDirectory() as place:
        args = training_arguments(recipe, Path(place))
        args.save_strategy, args.disable_tqdm, args.report_to = "no", True, []
        job = TrainingJob(model, processor, data, None, Collator(processor), [], LLAVA_O1)
        trainer = StagedTrainer(job, recipe, args, [clock])
        batch = trainer._prepare_inputs(job.collator([data[i] for i in range(options.batch)]))
        model.train()
        with FlopCounterMode(display=False) as counter, trainer.compute_loss_context_manager():
            trainer.compute_loss(model, batch).backward()
        model.zero_grad()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    steps = np.diff(clock.at)[1:]
    tokens = int(batch["attention_mask"].sum())
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    peak = next((flops for key, flops in PEAK.items() if key in card), None)
    trained, every = count_trained(model)
    work = counter.get_total_flops()
    return {
        "recipe": name, "device": card, "parameters": every, "trained": trained, "batch": options.batch,
        "tokens_a_step": tokens, "seconds_a_step": {"median": float(np.median(steps)), "all": steps.round(4).tolist()},
        "tokens_per_second": tokens / float(np.median(steps)),
        "flops_a_step": work,  # forward and backward of matrix products and attention, recomputation included
        "model_flops_utilisation": None if peak is None else work / float(np.median(steps)) / peak,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["11b", "medium"], default="11b" if torch.cuda.is_available() else "medium")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=600, help="of an answer")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    if options.model == "11b" and not torch.cuda.is_available():
        parser.error("the 11B shape needs a CUDA device: --model medium")
    rows = []
    for name in ("lora", "layer-group"):
        rows.append(measure(name, options))
        print(json.dumps(rows[-1]), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    place = "gpu" if torch.cuda.is_available() else "cpu"
    found = {"date": time.strftime("%Y-%m-%d"), "versions": versions(), "options": vars(options), "runs": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"training-{place}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
