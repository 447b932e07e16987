"""transformers' Trainer with batches of one length, a held-out loss by token, and staged accuracy. Nothing of its loop is replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, TrainerCallback, TrainingArguments

from structdecode.backends.transformers.collate import IGNORED
from structdecode.core.types import Schema
from structdecode.matching.types import Question
from structdecode.training.buckets import BucketSampler, bucket_sampler
from structdecode.training.held_out import HeldOutTrainer
from structdecode.training.sft.accuracy import Accuracy, staged_accuracy
from structdecode.training.sft.recipe import Recipe
from structdecode.training.sft.sharding import CheckSharded, shard_on_cpu


@dataclass
class TrainingJob:
    """What a run works on.

    Attributes:
        train, held_out: data sets; where they have ``lengths`` and ``pictures`` ([N]), batches are made of one length.
        questions: that staged accuracy is measured on.
        facts: of the data, for the model card.
        trainer: a trainer of the job's own; None: `StagedTrainer`.
        trust_remote_code: whether code that the base model brings may run, when adapters are merged into it.
    """

    model: Any
    processor: Any
    train: Any
    held_out: Any
    collator: Any
    questions: list[Question]
    schema: Schema
    facts: dict[str, Any] = field(default_factory=dict)
    trainer: type[StagedTrainer] | None = None
    trust_remote_code: bool = False


class StagedTrainer(HeldOutTrainer):
    """Attributes: ``job``, ``recipe``, ``sampler`` (of the training data; None where the job has its own order)."""

    def __init__(
        self, job: TrainingJob, recipe: Recipe, args: TrainingArguments, callbacks: list[TrainerCallback]
    ) -> None:
        self.job, self.recipe = job, recipe
        self.sampler: BucketSampler | None = None
        super().__init__(
            model=job.model, args=args, data_collator=job.collator, train_dataset=job.train, eval_dataset=job.held_out,
            processing_class=job.processor, callbacks=[_Epochs(self), CheckSharded(), *callbacks],
        )  # fmt: skip

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        shard_on_cpu(self)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **options: Any) -> Any:
        if self.recipe.fsdp_options.get("activation_checkpointing"):  # a recomputed layer would add its keys again
            inputs = {**inputs, "use_cache": False}
        if not model.training:
            options["num_items_in_batch"] = None  # the mean of this batch of this process
        return super().compute_loss(model, inputs, return_outputs, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.sampler = bucket_sampler(dataset, step, self.recipe.seed, by_count=self.by_count)
        return self.sampler

    def _places(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels[:, 1:] != IGNORED).sum()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Whole models through `from_pretrained`, strictly.

        transformers (5.23, issue 43701) loads the file's names as they are and passes over those that do not fit: of
        most image-text models, which are saved under older names than they have in memory, nothing is loaded at all.
        """
        model = model if model is not None else self.model
        if self.is_fsdp_enabled or not hasattr(model, "config") or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())

    def measure_accuracy(self) -> Accuracy | None:
        """Logs staged accuracy on the job's questions; None where there are none, and on processes but the first."""
        if not self.job.questions:
            return None
        model = self._whole_model()
        found = None
        if self.is_world_process_zero():
            found = staged_accuracy(model, self.processing_class, self.job.questions, self.job.schema)
            self.log(found.as_dict("eval_"))
        self.accelerator.wait_for_everyone()
        return found

    def _whole_model(self) -> Any:
        """The model as decoding can use it: the one in training; where it is sharded, a copy on the first process."""
        if not self.is_fsdp_enabled:
            model = self.accelerator.unwrap_model(self.model)
            return model.get_base_model() if hasattr(model, "get_base_model") else model
        state = self.accelerator.get_state_dict(self.model)
        if not self.is_world_process_zero():
            return None
        return _copied(self.accelerator.unwrap_model(self.model), state, self.args)


def _copied(model: Any, state: dict[str, Any], args: TrainingArguments) -> Any:
    """An unsharded copy with these weights, on the process's device."""
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    with args.device:
        copy = AutoModelForImageTextToText.from_config(model.config, dtype=dtype)
        adapters = getattr(model, "peft_config", None)
        if adapters:
            from peft import get_peft_model

            copy = get_peft_model(copy, adapters["default"])
    copy.load_state_dict(state)
    return (copy.get_base_model() if adapters else copy).eval()


class _Epochs(TrainerCallback):
    """Tells the sampler which epoch begins; accelerate does not where it has wrapped it."""

    def __init__(self, trainer: StagedTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch or 0))


def training_arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """The recipe in transformers' terms. Runs on CUDA where there is one."""
    evaluates = recipe.eval_every > 0
    fsdp = {"fsdp": True, "fsdp_config": dict(recipe.fsdp_options)} if recipe.fsdp else {}
    workers: dict[str, Any] = {"dataloader_num_workers": recipe.workers}
    if recipe.workers:
        workers |= {"dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True}
    checkpointing = recipe.gradient_checkpointing and not recipe.fsdp_options.get("activation_checkpointing")
    return TrainingArguments(
        output_dir=str(out / "checkpoints"), seed=recipe.seed, num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1, per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.eval_batch_size or recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation, learning_rate=recipe.lr, lr_scheduler_type=recipe.scheduler,
        lr_scheduler_kwargs=dict(recipe.scheduler_options) or None, warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay, adam_beta1=recipe.betas[0], adam_beta2=recipe.betas[1],
        max_grad_norm=recipe.max_grad_norm, bf16=recipe.precision == "bf16", use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=checkpointing, activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps" if evaluates else "no", eval_steps=recipe.eval_every or None,
        logging_strategy="steps", logging_steps=recipe.log_every, logging_first_step=False,
        save_strategy="steps", save_steps=recipe.save_every, save_total_limit=recipe.keep,
        report_to=["tensorboard"], remove_unused_columns=False, label_names=["labels"], prediction_loss_only=True,
        dataloader_drop_last=False, **workers, **fsdp,
        # rows without a picture leave the vision tower unused, and some towers have layers that nothing ever uses
        ddp_find_unused_parameters=True,
    )  # fmt: skip
