"""A training run of a probe; the same call resumes a killed one."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.hidden import check_layers
from structdecode.core.digests import checkpoint_digest, file_digest
from structdecode.core.environment import versions
from structdecode.core.errors import ConfigError, DataError
from structdecode.core.lookup import find_checkpoint, find_schema, load_backend
from structdecode.core.paths import atomic_folder
from structdecode.training.probe import fit
from structdecode.training.probe.states import StageStates, read_states
from structdecode.training.reward_model.opening import (
    DATA,
    MODEL,
    RECIPE,
    VerifierTrainingResult,
    facts_of,
    provenance,
    usable_rows,
)
from structdecode.training.reward_model.recipe import VerifierRecipe
from structdecode.training.reward_model.rows import StepDataset
from structdecode.training.sft.directory import check_same, keep_settings
from structdecode.verifiers.probe import FILE, WEIGHTS, GatedLinear, ProbeConfig

STATES = "states"
"""The folder of a run directory where what was read is kept."""

_log = logging.getLogger(__name__)


def train_probe(
    recipe: VerifierRecipe, data: StepDataset, out: Path, *, trust_remote_code: bool, quiet: bool
) -> VerifierTrainingResult:
    """Reads the states, says how good probes are out of fold, and writes one that is fitted on all answers.

    Raises:
        ConfigError: a layer is none of the model's, or there are fewer independent questions than folds.
        DataError, ModelError: rows or model cannot be used.
    """
    name = data.config.base_model
    with cast(TransformersBackend, load_backend(name, trust_remote_code=trust_remote_code)) as backend:
        config = _config(recipe, backend.model, name)
        data = usable_rows(data, backend.processor, recipe)
        whole = data.whole()
        facts = {
            **facts_of(whole, f"{recipe.folds} folds of the questions that share no picture, by seed {recipe.seed}"),
            "not whole": len(data) - len(whole), "base digest": config.base_digest,
        }  # fmt: skip
        check_same(out / DATA, facts, "data set")
        groups = fit.grouped(_links(whole))
        list(fit.folds(groups, whole.right, recipe.folds, recipe.seed))  # a mistake should not cost the reading
        out.mkdir(parents=True, exist_ok=True)
        keep_settings(out / RECIPE, recipe.as_dict())
        keep_settings(out / DATA, facts)
        states = read_states(backend, whole, config, out / STATES, batch=recipe.batch_size, quiet=quiet)
    return _finish(recipe, config, states, whole, groups, facts, out)


def _config(recipe: VerifierRecipe, model: Any, name: str) -> ProbeConfig:
    """Raises `ConfigError` where a layer is none of the model's."""
    text = model.config.get_text_config()
    count = text.num_hidden_layers
    layers = (count // 2, count) if recipe.layers is None else recipe.layers
    check_layers(model, layers)
    numbered = tuple(layer % (count + 1) for layer in layers)
    if not numbered or len(set(numbered)) < len(numbered):
        raise ConfigError(f"layers must name different layers, at least one, not {list(layers)}")
    schema, place = find_schema(recipe.schema), Path(find_checkpoint(name))
    return ProbeConfig.of(
        schema, separator=schema.separator, layers=numbered, width=text.hidden_size, base_model=name,
        base_digest=checkpoint_digest(place) if place.is_dir() else "",
    )  # fmt: skip


def _links(data: StepDataset) -> list[list[Hashable]]:
    """What makes answers dependent: the question, and its pictures by content; without any, the text of the question."""
    digests: dict[Path, str] = {}
    found: list[list[Hashable]] = []
    for index, question in enumerate(data.questions.tolist()):
        step = data.step(index)
        places = [data.place(image) for image in step.images]
        digests.update({place: file_digest(place) for place in places if place not in digests})
        found.append([question, *([digests[place] for place in places] or [step.asked])])
    return found


def _finish(
    recipe: VerifierRecipe, config: ProbeConfig, states: StageStates, data: StepDataset, groups: NDArray[np.int64],
    facts: Mapping[str, Any], out: Path,
) -> VerifierTrainingResult:  # fmt: skip
    """Folds, the fit on all, and the model: its directory appears last and whole."""
    read: NDArray[np.bool_] = states.present.sum(axis=1) > 0
    if states.problems:
        _log.warning("left out: %s of %s answers; the first: %s", (~read).sum(), len(read), states.problems[0])
    if not read.any():
        raise DataError(f"{data.path}: no answer can be read; the first: {states.problems[0]}")
    kept, right, questions, groups = fit.chosen(states, read), data.right[read], data.questions[read], groups[read]
    found = fit.cross_validated(
        kept, right, questions, groups, count=recipe.folds, seed=recipe.seed, weight_decay=recipe.weight_decay,
        steps=recipe.max_steps,
    )  # fmt: skip
    probe, steps = fit.fit(kept, right, recipe.weight_decay, recipe.max_steps)
    counts = {"answers": int(read.sum()), "right": int(right.sum()), "questions": len(np.unique(questions))}
    trained = {
        **provenance(recipe, facts),
        **counts,
        "not read": int((~read).sum()),
        "steps": steps,
        "versions": versions(),
    }
    figures = found.figures()
    save(probe, replace(config, trained=trained, held_out=figures), out / MODEL)
    return VerifierTrainingResult(out / MODEL, steps, figures)


def save(probe: GatedLinear, config: ProbeConfig, directory: Path) -> None:
    """Writes a new directory, whole or not at all: weights and description."""
    from safetensors.numpy import save_file

    with atomic_folder(directory) as partial:
        save_file({"weight": probe.weight, "bias": probe.bias}, partial / WEIGHTS)
        (partial / FILE).write_text(config.text(), encoding="utf-8")
