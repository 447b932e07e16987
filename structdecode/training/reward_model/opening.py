"""How a run begins: its directory, its rows, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError
from structdecode.core.lookup import find_schema
from structdecode.training.lengths import TokenCounter
from structdecode.training.reward_model.recipe import VerifierRecipe
from structdecode.training.reward_model.rows import StepDataset
from structdecode.training.sft.directory import check_same, sha256
from structdecode.training.usable import check_left_out, left_out
from structdecode.verifiers.reward_model.config import RewardConfig

RECIPE, DATA, MODEL = "recipe.yaml", "data.yaml", "model"
"""What a run directory holds. ``model/`` is there when all is done."""


@dataclass(frozen=True)
class VerifierTrainingResult:
    """Of a finished run. ``figures``: (value, standard error) by stage and measure, on held-out questions; of a probe by
    measure, out of fold, of the ``probe`` and of the ``constant`` base rate.
    """

    model: Path
    steps: int
    figures: Mapping[str, Mapping[str, tuple[float, float]]]


def open_rows(recipe: VerifierRecipe, out: Path) -> StepDataset:
    """The rows, where nothing speaks against a run of this recipe in this directory.

    Raises:
        ConfigError: the directory was made with another recipe or is done, or a setting makes no sense.
        DataError: the rows cannot be used.
    """
    if (out / MODEL).exists():
        raise ConfigError(f"{out / MODEL} is there already: choose another --out, or remove it")
    if not recipe.model:
        raise ConfigError("the recipe names no model: give the base with --model (a directory, a hub name, or pocket)")
    if not recipe.rows:
        raise ConfigError("the recipe names no rows: give a file of `structdecode export --to prm`")
    config = RewardConfig.of(find_schema(recipe.schema), likelihood=recipe.likelihood, base_model=recipe.model)
    data = StepDataset(recipe.rows, config, sentences=recipe.sentences, outcomes=recipe.outcomes)
    check_same(out / RECIPE, recipe.as_dict(), "recipe")
    return data


def usable_rows(data: StepDataset, processor: Any, recipe: VerifierRecipe) -> StepDataset:
    """Those that the processor takes. Raises `DataError` where too many are left out."""
    data = data.usable(TokenCounter(processor), recipe.max_length)
    check_left_out(data.path, data.rejected, len(data), recipe.max_left_out)
    return data


def facts_of(data: StepDataset, held_out: str) -> dict[str, Any]:
    """For the run's ``data.yaml``. ``held_out``: what is, in words."""
    return {
        "rows": data.path.name, "answers": len(data), "questions": len(data.names),
        "left out": left_out(data.rejected, len(data)), "held out": held_out, "sha256": sha256(data.path),
    }  # fmt: skip


def provenance(recipe: VerifierRecipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a verifier was trained, without paths of the machine."""
    outcomes = recipe.outcomes and Path(recipe.outcomes).name
    return {**recipe.as_dict(), "rows": facts["rows"], "outcomes": outcomes, "sha256": facts["sha256"]}
