"""A recipe for a reward model: everything that decides what its training makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.training.ranges import (
    ABOVE_ZERO,
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    SEED,
    SHARE,
    ZERO_OR_MORE,
    Range,
    check_numbers,
    check_save_dtype,
)
from structdecode.training.recipe_files import RecipeFiles, plain_values

Method = Literal["head", "lora", "full", "probe"]

RANGES = {
    **dict.fromkeys(("batch_size", "accumulation", "lora_rank", "lora_alpha", "keep", "log_every", "max_length"), COUNT),
    **dict.fromkeys(("max_steps", "eval_every", "save_every", "workers"), COUNT_OR_ZERO),
    **dict.fromkeys(("lr", "epochs", "held_out"), ABOVE_ZERO),
    **dict.fromkeys(("weight_decay", "language_modelling"), ZERO_OR_MORE),
    "folds": Range(2, 2**31 - 1), "warmup": SHARE, "max_left_out": SHARE, "lora_dropout": BELOW_ONE, "seed": SEED,
}  # fmt: skip
"""Of the settings that are numbers."""


@dataclass(frozen=True)
class VerifierRecipe:
    """What is trained, on what, and how.

    Attributes:
        about: one line on what it is for.
        rows: the JSONL file. model: the base: a directory, a hub name, or pocket.
        method: the head alone, adapters on the language model (merged at the end), or all weights; or a ``probe`` on the
            hidden states of the base as it is, which is to be the generator (`structdecode.training.probe`).
        schema: whose stages the rows have.
        outcomes: a second file with the same answers, whose labels of the last stage count instead of those in ``rows``:
            labels by reference say whether all of an answer is as it should be, those by rollouts whether it is right.
        likelihood: the base model's own log-probabilities are part of a value (see `model.RewardModel`).
        language_modelling: with ``likelihood``: the weight of the loss of writing what is right, beside that of the labels.
        sentences: also learn where inside of a stage the first fault is (see `rows.sentence_marks`).
        held_out: a share of the questions, or from 1 on how many, that are kept for measuring.
        layers: ``probe``: whose states are read, as transformers numbers ``hidden_states``; none: the middle one and the last.
        folds: ``probe``: into how many parts the questions are split; each is measured by a probe that was fitted on the
            others, in place of what is held out.
        epochs, max_steps: passes over the rows, unless ``max_steps`` is above 0.
        batch_size: answers in a batch; ``accumulation`` batches make up a step.
        weight_decay: of a ``probe`` the weight of half its squared weights beside the mean loss.
        warmup: a share of the steps. The learning rate then falls along a cosine.
        max_length: tokens; longer answers are left out.
        max_left_out: the share of rows that may be left out for other reasons; above it the run ends.
        eval_every, save_every: in steps; 0: at the end only. keep: checkpoints that stay.
        save_dtype: of the final weights, the head's apart: float32, bfloat16 or float16; none: as they are.
        workers: processes that read and decode pictures ahead.
    """

    about: str = ""
    rows: str | None = None
    model: str | None = None
    method: Method = "lora"
    schema: str = "llava-o1"
    outcomes: str | None = None
    likelihood: bool = False
    language_modelling: float = 0.0
    sentences: bool = False
    held_out: float = 0.1
    layers: tuple[int, ...] | None = None
    folds: int = 5
    epochs: float = 3.0
    max_steps: int = 0
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-4
    warmup: float = 0.03
    weight_decay: float = 0.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    gradient_checkpointing: bool = False
    max_length: int | None = None
    max_left_out: float = 0.01
    eval_every: int = 200
    save_every: int = 200
    keep: int = 2
    log_every: int = 20
    save_dtype: str | None = None
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UnknownNameError("method", self.method, get_args(Method))
        check_numbers(vars(self), RANGES)
        check_save_dtype(self.save_dtype)
        if self.language_modelling and not self.likelihood:
            raise ConfigError("language_modelling needs likelihood: without it the model has no output layer")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return plain_values(self)


RECIPES = RecipeFiles(VerifierRecipe, "recipes/verifier")
built_in, load_recipe = RECIPES.built_in, RECIPES.load
