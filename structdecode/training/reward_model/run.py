"""Trains a reward model; the same call resumes a killed run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from structdecode.core.environment import versions
from structdecode.core.errors import MissingExtraError
from structdecode.training.probe.run import train_probe
from structdecode.training.reward_model.card import draw, write_card
from structdecode.training.reward_model.model import choose_trained, from_base, merged, save
from structdecode.training.reward_model.opening import (
    DATA,
    MODEL,
    RECIPE,
    VerifierTrainingResult,
    facts_of,
    open_rows,
    provenance,
    usable_rows,
)
from structdecode.training.reward_model.recipe import VerifierRecipe
from structdecode.training.reward_model.rows import StepDataset
from structdecode.training.reward_model.trainer import RewardTrainer, training_arguments
from structdecode.training.sft import checkpoints
from structdecode.training.sft.directory import check_same, keep_settings
from structdecode.training.sft.journal import Journal, read_journal
from structdecode.verifiers.reward_model.collate import StepCollator
from structdecode.verifiers.reward_model.config import RewardConfig
from structdecode.verifiers.reward_model.network import RewardModel

JOURNAL, CURVES = "journal.jsonl", "curves.png"
"""What a run directory holds beside ``checkpoints/`` and what all have (`opening`)."""

_log = logging.getLogger(__name__)


def train(
    recipe: VerifierRecipe, out: str | Path, *, trust_remote_code: bool = False, quiet: bool = False,
    callbacks: tuple[Any, ...] = (),
) -> VerifierTrainingResult:  # fmt: skip
    """Trains until the recipe is done, and writes model, card and curves into the run directory.

    Args:
        callbacks: more of transformers' callbacks; a probe's fit has none.

    Raises:
        ConfigError: the directory was made with another recipe or is done, or a setting makes no sense.
        DataError, ModelError: rows or model cannot be used.
    """
    out = Path(out)
    data = open_rows(recipe, out)
    if recipe.method == "probe":
        return train_probe(recipe, data, out, trust_remote_code=trust_remote_code, quiet=quiet)
    set_seed(recipe.seed)
    model, processor = from_base(
        data.config.base_model, likelihood=recipe.likelihood, language_modelling=recipe.language_modelling,
        trust_remote_code=trust_remote_code, dtype=_dtype(recipe),
    )  # fmt: skip
    data = usable_rows(data, processor, recipe)
    facts = facts_of(data, f"{recipe.held_out:g} of the questions, by seed {recipe.seed}")
    check_same(out / DATA, facts, "data set")
    out.mkdir(parents=True, exist_ok=True)
    trainer = _trainer(model, processor, recipe, data, facts, out, quiet, callbacks)
    keep_settings(out / RECIPE, recipe.as_dict())
    keep_settings(out / DATA, facts)
    last = checkpoints.last_checkpoint(out / "checkpoints")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return _finish(trainer, processor, data.config, facts, out)


def _trainer(
    model: RewardModel, processor: Any, recipe: VerifierRecipe, data: StepDataset, facts: Mapping[str, Any], out: Path,
    quiet: bool, callbacks: tuple[Any, ...],
) -> RewardTrainer:  # fmt: skip
    train_rows, held_out = data.train_test_split(recipe.held_out, recipe.seed)
    choose_trained(model, recipe)
    steps = recipe.max_steps or math.ceil(
        recipe.epochs * math.ceil(len(train_rows) / recipe.batch_size) / recipe.accumulation
    )
    try:
        args = training_arguments(recipe, out, steps)
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    args.disable_tqdm = quiet
    checkpoints.remove_torn(out / "checkpoints")
    done = checkpoints.step_of(checkpoints.last_checkpoint(out / "checkpoints"))
    own = [checkpoints.MarkComplete(), Journal(out / JOURNAL, done, {"data": facts}), *callbacks]
    collator = StepCollator(processor, max_length=recipe.max_length)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _log.info("%s parameters are trained, on %s answers, in %s steps", f"{trained:,}", f"{len(train_rows):,}", steps)
    return RewardTrainer(model, recipe, train_rows, held_out, collator, args, own)


def _dtype(recipe: VerifierRecipe) -> str:
    """Frozen weights are in bfloat16 where the computation is; trained ones become float32 later."""
    return "bfloat16" if torch.cuda.is_available() and recipe.method != "full" else "float32"


def _finish(
    trainer: RewardTrainer, processor: Any, config: RewardConfig, facts: Mapping[str, Any], out: Path
) -> VerifierTrainingResult:
    """The last measurement, curves and card, and the model: its directory appears last and whole."""
    trainer.evaluate()
    figures, recipe = trainer.figures(), trainer.recipe
    journal = read_journal(out / JOURNAL)
    seconds = max((line["seconds"] for line in journal), default=0.0)
    draw(journal, config.names, out / CURVES, out.name)
    trained = {
        **provenance(recipe, facts), "steps": trainer.state.global_step, "hours": round(seconds / 3600, 2), "versions": versions(),
    }  # fmt: skip
    model = merged(trainer.accelerator.unwrap_model(trainer.model))
    if recipe.save_dtype:
        model.backbone.to(getattr(torch, recipe.save_dtype))
    done = replace(config, trained=trained, held_out=figures)
    save(model, processor, done, out / MODEL, extra=lambda place: write_card(place, done, facts, out.name))
    return VerifierTrainingResult(out / MODEL, trainer.state.global_step, figures)
