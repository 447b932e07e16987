"""``structdecode train``: from flags to a recipe, and what is said before and after."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.training.recipe_files import parse_settings
from structdecode.training.sft.recipe import OWN_DATA, Recipe, load_recipe


@dataclass(frozen=True)
class Options:
    """As given on the command line. ``overrides`` are the flags that were given; ``set_`` goes before them."""

    recipe: str
    out: Path
    overrides: Mapping[str, Any]
    set_: Sequence[str]
    threads: int | None
    trust_remote_code: bool
    quiet: bool

    def resolved(self) -> Recipe:
        """Raises `ConfigError` where the recipe is not known or does not take one of the settings."""
        given = {name: value for name, value in self.overrides.items() if value is not None}
        return load_recipe(self.recipe, {**parse_settings(self.set_), **given})


def run(options: Options) -> None:
    """Trains; the first process says what came out."""
    recipe = options.resolved()
    _set_up(options)
    from structdecode.training.sft.run import train

    outcome = train(recipe, options.out, trust_remote_code=options.trust_remote_code, quiet=options.quiet)
    if not outcome.first:
        return
    from structdecode.training.sft.card import shown

    accuracy = f"; staged accuracy {shown(outcome.accuracy)}" if outcome.accuracy else ""
    print(f"Trained {outcome.steps:,} steps; held-out loss {outcome.held_out_loss:.4f}{accuracy}")
    print(f"Model: {outcome.model}  (structdecode generate --model {outcome.model} ...)")


def dry_run(options: Options) -> None:
    """Loads data and model as training would, and prints what it would do."""
    recipe = options.resolved()
    _set_up(options)
    from tempfile import TemporaryDirectory

    from structdecode.training.sft.data import count_trained
    from structdecode.training.sft.run import prepared

    with TemporaryDirectory() as place:
        job = prepared(recipe, Path(place), trust_remote_code=options.trust_remote_code)
    trained, every = count_trained(job.model)
    step = recipe.batch_size * recipe.accumulation
    epoch = math.ceil(len(job.train) / step) if recipe.data != OWN_DATA else recipe.max_steps
    steps = recipe.max_steps or math.ceil(epoch * recipe.epochs)
    print(f"model       {recipe.model or 'from nothing'}: {trained:,} of {every:,} parameters are trained")
    print(f"data        {', '.join(f'{key} {value}' for key, value in job.facts.items())}")
    print(f"steps       {steps:,} on one process ({epoch:,} an epoch; a step takes {step} examples a process)")
    print(f"measured    held-out loss every {recipe.eval_every} steps, staged accuracy every {recipe.accuracy_every} "
          f"on {len(job.questions)} questions")  # fmt: skip
    print(f"memory      {_states(trained, every, recipe)}")


def _states(trained: int, every: int, recipe: Recipe) -> str:
    """Weights, gradients and AdamW's two moments; activations come on top."""
    frozen = {"qlora": 0.56}.get(recipe.method, 2.0 if recipe.precision == "bf16" else 4.0)  # bytes a weight
    total = (16 * trained + frozen * (every - trained)) / 1e9
    shared = " over all processes" if recipe.fsdp else ""
    return f"{total:.2f} GB{shared} for weights, gradients and optimizer; activations come on top"


def _set_up(options: Options) -> None:
    """Before torch is used for the first time."""
    try:
        import accelerate  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"--threads must be at least 1, not {options.threads}")
        import torch

        torch.set_num_threads(options.threads)
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for noisy in ("httpx", "httpcore", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
