"""A training run from a recipe to a checkpoint; the same call resumes a killed run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.training.sft import checkpoints
from structdecode.training.sft.accuracy import Accuracy, MeasureAccuracy
from structdecode.training.sft.adapters import merge
from structdecode.training.sft.card import shown, write_card
from structdecode.training.sft.curves import draw
from structdecode.training.sft.data import count_trained, prepare
from structdecode.training.sft.directory import check_same, keep_settings
from structdecode.training.sft.journal import Journal, read_journal
from structdecode.training.sft.recipe import OWN_DATA, Recipe
from structdecode.training.sft.trainer import StagedTrainer, TrainingJob, training_arguments

RECIPE, DATA, JOURNAL, CURVES, MODEL, ADAPTER, CARD = (
    "recipe.yaml", "data.yaml", "journal.jsonl", "curves.png", "model", "adapter", "README.md"
)  # fmt: skip
"""What a run directory holds, beside ``checkpoints/`` and ``tensorboard/``. ``model/`` is there when all is done."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Of a finished run. ``held_out_loss`` is in nats a token; ``first`` tells the process that speaks for all."""

    model: Path
    steps: int
    first: bool
    held_out_loss: float
    accuracy: Accuracy | None


def train(
    recipe: Recipe, out: str | Path, *, trust_remote_code: bool = False, quiet: bool = False,
    callbacks: tuple[Any, ...] = (),
) -> TrainingResult:  # fmt: skip
    """Trains until the recipe is done, and writes model, card and curves into the run directory.

    Under `accelerate launch` every process calls it.

    Args:
        callbacks: more of transformers' callbacks.

    Raises:
        ConfigError: the directory was made with another recipe, or a setting makes no sense for the model.
        DataError, ModelError: data or model cannot be used.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    check_same(out / RECIPE, recipe.as_dict(), "recipe")
    args = _arguments(recipe, out)
    args.disable_tqdm = quiet
    job = prepared(recipe, out, trust_remote_code=trust_remote_code)
    check_same(out / DATA, job.facts, "data set")
    trained, every = count_trained(job.model)
    _log.info("%s of %s parameters are trained", f"{trained:,}", f"{every:,}")
    trainer = make_trainer(job, recipe, args, out)
    keep_settings(out / RECIPE, recipe.as_dict())
    keep_settings(out / DATA, job.facts)
    if quiet:
        trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    last = checkpoints.last_checkpoint(Path(args.output_dir))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return _finish(trainer, out)


def make_trainer(job: TrainingJob, recipe: Recipe, args: Any, out: Path) -> StagedTrainer:
    """The trainer with what the run directory needs: whole checkpoints, the journal, accuracy."""
    place = Path(args.output_dir)
    if args.process_index == 0:
        checkpoints.remove_torn(place)
    done = checkpoints.step_of(checkpoints.last_checkpoint(place))
    accuracy = MeasureAccuracy(recipe.accuracy_every)
    callbacks = [checkpoints.MarkComplete(), accuracy]
    if args.process_index == 0:
        callbacks.append(Journal(out / JOURNAL, done, {"data": job.facts}))
    try:
        with _environment("TENSORBOARD_LOGGING_DIR", str(out / "tensorboard")):  # the only way to tell transformers
            trainer = (job.trainer or StagedTrainer)(job, recipe, args, callbacks)
    except ValueError as error:  # settings that do not go together, or with this machine
        raise ConfigError(str(error).splitlines()[0]) from error
    accuracy.trainer = trainer
    return trainer


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _arguments(recipe: Recipe, out: Path) -> Any:
    try:
        return training_arguments(recipe, out)
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    except ValueError as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def prepared(recipe: Recipe, out: Path, *, trust_remote_code: bool = False) -> TrainingJob:
    """Model, data and questions of a recipe, loaded and checked."""
    set_seed(recipe.seed)
    if recipe.data == OWN_DATA:
        from structdecode.training.pocket.trainer import prepare_pocket

        return prepare_pocket(recipe)
    return prepare(recipe, out, trust_remote_code=trust_remote_code)


# ------------------------------------------------------------------ when the last step is taken


def _finish(trainer: StagedTrainer, out: Path) -> TrainingResult:
    """The last measurements, then the model; its directory appears last and whole."""
    recipe = trainer.recipe
    loss = _held_out_loss(trainer)
    accuracy = trainer.measure_accuracy()
    if not (out / MODEL).exists():
        _save(trainer, out)
    if trainer.is_world_process_zero():
        journal = read_journal(out / JOURNAL)
        draw(journal, out / CURVES, out.name)
        figures = {
            "staged accuracy, held out": shown(accuracy) if accuracy else None,
            "held-out loss, nats a token": f"{loss:.4f}",
            "steps": trainer.state.global_step,
            "hours of training": f"{max((line['seconds'] for line in journal), default=0) / 3600:.2f}",
            "parameters trained": "{:,} of {:,}".format(
                *count_trained(trainer.accelerator.unwrap_model(trainer.model))
            ),
        }
        shutil.copy(out / RECIPE, out / MODEL / RECIPE)
        write_card(out / MODEL / CARD, recipe, out.name, trainer.job.facts, figures)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult(out / MODEL, trainer.state.global_step, trainer.is_world_process_zero(), loss, accuracy)


def _held_out_loss(trainer: StagedTrainer) -> float:
    """At the last step, measured once."""
    known = [line for line in trainer.state.log_history if line.get("step") == trainer.state.global_step]
    at_the_end = [float(line["eval_loss"]) for line in known if "eval_loss" in line]
    return at_the_end[-1] if at_the_end else float(trainer.evaluate()["eval_loss"])


def _save(trainer: StagedTrainer, out: Path) -> None:
    """All processes take part where the model is sharded; the first one writes."""
    recipe, first = trainer.recipe, trainer.is_world_process_zero()
    partial = out / f".{MODEL}.partial"
    if first:
        shutil.rmtree(partial, ignore_errors=True)
    if recipe.method == "full":
        trainer.save_model(str(partial))
        if first and recipe.save_dtype:
            _cast(partial, recipe.save_dtype)
    else:
        trainer.save_model(str(out / ADAPTER))
        if first:
            merge(
                out / ADAPTER, partial, base=recipe.model, dtype=recipe.save_dtype or "auto",
                trust_remote_code=trainer.job.trust_remote_code,
            )  # fmt: skip
    trainer.accelerator.wait_for_everyone()
    if first:
        partial.rename(out / MODEL)
    trainer.accelerator.wait_for_everyone()


def _cast(directory: Path, dtype: str) -> None:
    """Rewrites the weights of a saved model in another precision."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=getattr(torch, dtype))
    model.save_pretrained(directory)
