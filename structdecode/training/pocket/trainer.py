"""Trains the pocket model from nothing: ``structdecode train --recipe pocket --out DIR``.

The engine is that of any other model's training; what is its own is that a step's examples depend on the model's own
answers. So the data set that the loop draws from holds step numbers, and a step's examples are made when it is due.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.schemas import LLAVA_O1
from structdecode.data import load
from structdecode.pocket import world
from structdecode.training.pocket import examples
from structdecode.training.pocket.curriculum import WEIGHTS, Curriculum, Plan, loss
from structdecode.training.pocket.model import build_model, build_processor, build_tokenizer
from structdecode.training.sft.recipe import Recipe
from structdecode.training.sft.trainer import StagedTrainer, TrainingJob

HELD_OUT = 256
"""Validation scenes that the held-out loss (of answers) is measured on."""

STATE = "curriculum.pt"
"""In a checkpoint, beside what transformers writes."""


def prepare_pocket(recipe: Recipe) -> TrainingJob:
    """The job of the pocket recipe.

    Raises:
        ConfigError: a setting that the curriculum does not know, or one that it cannot have.
    """
    known = [f.name for f in fields(Plan) if f.name not in ("steps", "batch", "seed")]
    for name in recipe.curriculum:
        if name not in known:
            raise UnknownNameError("setting of the curriculum", name, known)
    if recipe.max_steps < 1 or recipe.accumulation != 1 or recipe.method != "full" or recipe.fsdp:
        raise ConfigError("the pocket model is trained whole, in one process, for max_steps steps")
    tokenizer = build_tokenizer()
    model, processor = build_model(tokenizer), build_processor(tokenizer)
    facts = {
        "data": f"the pocket world, split train, seed {recipe.seed}", "held out": f"{HELD_OUT} validation scenes",
        "code": "structdecode/pocket/world.py, examples.py, curriculum.py",
    }  # fmt: skip
    questions = (
        load("pocket:validation", limit=recipe.accuracy_questions).questions if recipe.accuracy_questions else ()
    )
    held_out = [examples.encode(example, tokenizer) for example in _answers(HELD_OUT)]
    return TrainingJob(
        model, processor, _Steps(range(recipe.max_steps)), _Steps([held_out]), _only, list(questions), LLAVA_O1, facts,
        PocketTrainer,
    )  # fmt: skip


def _answers(n: int) -> list[examples.Example]:
    rng = np.random.default_rng(0)
    return [examples.answering(scene, rng) for scene in islice(world.scenes("validation", 7), n)]


class _Steps(torch.utils.data.Dataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def _only(items: list[Any]) -> dict[str, Any]:
    """A batch of one: a step's number in training, all of the held-out examples in evaluation."""
    (item,) = items
    return {"step": item} if isinstance(item, int) else {"answers": item}


class PocketTrainer(StagedTrainer):
    """One item a step; the loss is the weighted sum of the groups'."""

    def __init__(self, job: TrainingJob, recipe: Recipe, args: Any, callbacks: list[TrainerCallback]) -> None:
        plan = Plan(recipe.max_steps, recipe.batch_size, recipe.seed, **recipe.curriculum)
        self.curriculum = Curriculum(plan, job.processor.tokenizer)
        self.pad: int = job.processor.tokenizer.pad_token_id
        args.per_device_train_batch_size = args.per_device_eval_batch_size = 1
        super().__init__(job, recipe, args, callbacks)
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if "answers" in inputs:  # held out
            total = loss(model, inputs["answers"], self.pad)
            return (total, {}) if return_outputs else total
        step = inputs["step"]
        if self.curriculum.samples_due(step):
            self.curriculum.sample_own(model, self.processing_class, step)
        losses = {name: loss(model, group, self.pad) for name, group in self.curriculum.groups(step).items()}
        return torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # a step's inputs are made inside of it

    # ---------------------------------------------------------- the curriculum's place in the checkpoints
    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self.curriculum.state_dict(), Path(output_dir) / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = torch.load(Path(resume_from_checkpoint) / STATE, weights_only=False)  # our own file, with attempts
        self.curriculum.load_state_dict(state)
