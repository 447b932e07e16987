"""transformers' Trainer over steps. Of its loop nothing is replaced but the order of the rows and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from structdecode.backends.transformers.collate import IGNORED
from structdecode.training.buckets import bucket_sampler
from structdecode.training.held_out import HeldOutTrainer
from structdecode.training.reward_model.measures import Scored, measured, with_errors
from structdecode.training.reward_model.recipe import VerifierRecipe
from structdecode.training.reward_model.rows import StepDataset
from structdecode.verifiers.reward_model.collate import StepCollator
from structdecode.verifiers.reward_model.network import RewardModel

WEIGHTS = "trained.safetensors"
"""In a checkpoint: the weights that are trained, and no others."""


class RewardTrainer(HeldOutTrainer):
    """Batches of one length; held-out figures by stage. ``figures()`` has them with standard errors."""

    def __init__(
        self, model: RewardModel, recipe: VerifierRecipe, train: StepDataset, held_out: StepDataset,
        collator: StepCollator, args: TrainingArguments, callbacks: list[TrainerCallback],
    ) -> None:  # fmt: skip
        self.recipe = recipe
        self.scored: Scored | None = None
        super().__init__(
            model=model, args=args, data_collator=collator, train_dataset=train, eval_dataset=held_out,
            compute_metrics=self._measures, callbacks=callbacks,
        )  # fmt: skip
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return bucket_sampler(dataset, step, self.recipe.seed, by_count=self.by_count)

    def _places(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels != IGNORED).sum()

    def _measures(self, found: EvalPrediction) -> dict[str, float]:
        labels, kinds, rows = found.label_ids
        dataset = self.eval_dataset
        self.scored = Scored.of_batches(np.asarray(found.predictions), labels, kinds, rows, dataset.questions)
        return measured(self.scored, dataset.config.names)

    def figures(self) -> dict[str, Any]:
        """Of the last evaluation, with standard errors."""
        assert self.scored is not None
        return with_errors(self.scored, self.eval_dataset.config.names, self.recipe.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        place = Path(output_dir or self.args.output_dir)
        place.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, place / WEIGHTS)
        torch.save(self.args, place / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        strange = (model or self.model).load_state_dict(weights, strict=False).unexpected_keys
        assert not strange, strange

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


def training_arguments(recipe: VerifierRecipe, out: Path, steps: int) -> TrainingArguments:
    """The recipe in transformers' terms; bfloat16 on CUDA, float32 elsewhere.

    Args:
        steps: of the whole run.
    """
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out / "checkpoints"), seed=recipe.seed, num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1, per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size, gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.lr, lr_scheduler_type="cosine", warmup_steps=round(recipe.warmup * steps),
        weight_decay=recipe.weight_decay, bf16=cuda, use_cpu=not cuda,
        eval_strategy="steps" if recipe.eval_every else "no", eval_steps=recipe.eval_every or None,
        eval_on_start=recipe.eval_every > 0,
        logging_strategy="steps", logging_steps=recipe.log_every,
        save_strategy="steps" if recipe.save_every else "no", save_steps=recipe.save_every or 500,
        save_total_limit=recipe.keep, report_to=[], remove_unused_columns=False,
        label_names=["labels", "kinds", "rows"], dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
    )  # fmt: skip
