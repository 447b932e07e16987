"""A recipe: everything that decides what a training run makes. One small YAML, some of its lines overridden by flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from structdecode.core.errors import ConfigError
from structdecode.training.ranges import (
    ABOVE_ZERO,
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    SEED,
    SHARE,
    ZERO_OR_MORE,
    check_numbers,
    check_save_dtype,
)
from structdecode.training.recipe_files import RecipeFiles, plain_values

Method = Literal["full", "lora", "qlora"]
Precision = Literal["fp32", "bf16"]

OWN_DATA = "pocket"
"""As ``data``: the embedded model's curriculum, which makes its examples while it trains."""


RANGES = {
    **dict.fromkeys(("batch_size", "accumulation", "log_every", "save_every", "keep", "lora_rank", "lora_alpha"), COUNT),
    **dict.fromkeys(("eval_batch_size", "max_length"), COUNT),
    **dict.fromkeys(("eval_every", "accuracy_every", "accuracy_questions", "workers", "max_steps"), COUNT_OR_ZERO),
    **dict.fromkeys(("lr", "epochs", "held_out"), ABOVE_ZERO),
    **dict.fromkeys(("warmup", "weight_decay", "max_grad_norm"), ZERO_OR_MORE),
    **dict.fromkeys(("lora_dropout", "betas"), BELOW_ONE), "max_left_out": SHARE, "seed": SEED,
}  # fmt: skip
"""Of the settings that are numbers."""


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how. Batches are counted in examples a process.

    Attributes:
        about: one line on where it comes from and what it needs.
        model: the base checkpoint: a directory or a hub name.
        data, images: a LLaVA-CoT JSONL file, and the folder of its pictures (default: that of the file).
        held_out: a JSONL file to measure on, or how many rows (a share below 1) are kept from ``data`` for it.
        schema: the stages' name or file.
        method: all weights (``full``), adapters (``lora``), or adapters over a base in 4 bits (``qlora``).
        train_only: regular expressions; of ``full``, only the weights whose names one of them matches are trained.
        lora_targets: names of linear layers, or ``all-linear`` (of the language model; the vision tower is left alone).
        special_tags: stage tags become tokens of their own, and the embeddings grow by them.
        epochs, max_steps: passes over the data, unless ``max_steps`` is above 0.
        accumulation: batches that make up one optimizer step.
        scheduler, scheduler_options: as transformers names them. warmup: steps, or a share of all below 1.
        precision: ``bf16`` computes in bfloat16 (autocast); weights that are trained stay in float32.
        fsdp: shard weights, gradients and optimizer over the processes; ``fsdp_options`` as transformers has them.
        max_length: tokens; longer examples are left out.
        max_left_out: the share of rows that may be left out for other reasons (no picture, say); above it the run ends.
        eval_every: steps between two measurements of the held-out loss; 0: at the end only.
        accuracy_every, accuracy_questions: staged accuracy, decoded with this project's engine on this many held-out
            questions; 0 questions: never.
        save_every, keep: steps between checkpoints, and how many stay.
        save_dtype: of the final weights: float32, bfloat16 or float16; none: as they are.
        workers: processes that read and decode pictures ahead.
        curriculum: settings of the data's own, where ``data`` is ``pocket``.
    """

    about: str = ""
    model: str | None = None
    data: str | None = None
    images: str | None = None
    held_out: str | float = 0.02
    schema: str = "llava-o1"
    method: Method = "full"
    train_only: tuple[str, ...] = ()
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: str | tuple[str, ...] = "all-linear"
    special_tags: bool = False
    epochs: float = 3.0
    max_steps: int = 0
    batch_size: int = 4
    accumulation: int = 1
    lr: float = 1e-5
    scheduler: str = "cosine"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    warmup: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    precision: Precision = "bf16"
    gradient_checkpointing: bool = True
    fsdp: bool = False
    fsdp_options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    max_left_out: float = 0.01
    eval_every: int = 200
    eval_batch_size: int | None = None
    accuracy_every: int = 500
    accuracy_questions: int = 200
    log_every: int = 10
    save_every: int = 200
    keep: int = 2
    save_dtype: str | None = None
    workers: int = 4
    seed: int = 0
    curriculum: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers({name: getattr(self, name) for name in self.__dataclass_fields__}, RANGES)
        for name in ("save_every", "eval_every"):
            if getattr(self, name) % self.log_every:  # else a resumed run would log means over fewer steps
                raise ConfigError(
                    f"{name} must be a multiple of log_every ({self.log_every}), not {getattr(self, name)}"
                )
        check_save_dtype(self.save_dtype)
        if self.train_only and self.method != "full":
            raise ConfigError(f"train_only is for method full: {self.method} trains adapters")
        if self.fsdp and self.method == "qlora":
            raise ConfigError("qlora and fsdp do not go together here: use lora with fsdp, or qlora on one device")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return plain_values(self)


RECIPES = RecipeFiles(Recipe, "recipes")
built_in, load_recipe = RECIPES.built_in, RECIPES.load
