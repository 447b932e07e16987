"""A released reward model in memory: its backend, and its head where it has one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig
from transformers.utils import cached_file

from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.loading import load_model
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.types import Prompt
from structdecode.verifiers.recipes.recipe import HeadRead, Recipe

Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weight [out, in] and bias [out]."""


def common(*rows: Sequence[int]) -> int:
    """How many tokens rows begin with alike."""
    return next((at for at, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), min(map(len, rows)))


class RecipeModel:
    """What a recipe's checkpoint is in memory."""

    def __init__(self, backend: TransformersBackend, layers: Sequence[Layer]) -> None:
        self.backend, self.layers = backend, layers

    def marked(self, prompt: Prompt, steps: Sequence[str], marker: str) -> list[tuple[int, ...]]:
        """Tokens of an answer whose steps have a marker behind them, cut behind each."""
        codec = self.backend.codec
        before, _ = codec.around_answer(prompt)
        read = [(*codec.pieces([step])[0], *codec.encode(marker)) for step in steps]
        return [(*before, *read[0]), *read[1:]]

    def closed(self, prompt: Prompt, answers: Sequence[str], joined: str) -> list[tuple[int, ...]]:
        """Tokens of a whole answer and of what closes its turn, cut so that what it has in common with its beginnings,
        and will have with what it grows into, is read once.

        Args:
            answers: up to each of its steps, the whole one last. joined: what stands before a further step, whose tokens
                may be those of the step's end, too.
        """
        codec = self.backend.codec
        before, behind = codec.around_answer(prompt)
        (whole,) = codec.pieces(answers[-1:])
        stable = (common(whole, *(codec.pieces([text])[0] for text in (each, each + joined))) for each in answers)
        cuts = sorted({0, *stable})
        read = [*(whole[start:end] for start, end in pairwise(cuts)), (*whole[cuts[-1] :], *behind)]
        return [piece for piece in ((*before, *read[0]), *read[1:]) if piece]

    def value(self, hidden: NDArray[np.float32], head: HeadRead) -> float:
        """What the head makes of a hidden state [H]."""
        found = hidden.astype(np.float64)
        for number, (weight, bias) in enumerate(self.layers):
            found = weight @ (np.maximum(found, 0.0) if number else found) + bias
        if head.softmax:
            found = np.exp(found - found.max())
            found = found / found.sum()
        value = float(found[head.output])
        return 1.0 / (1.0 + float(np.exp(min(-value, 700.0)))) if head.sigmoid else value


def load(directory: str, recipe: Recipe, device: str | None, dtype: str, trust_remote_code: bool) -> RecipeModel:
    """The checkpoint in a directory, or of a name on the hub.

    Raises:
        ConfigError: it is of another architecture than the recipe's, or the head does not fit.
        ModelError: it cannot be loaded.
    """
    _check_architecture(directory, recipe.architectures)
    model, processor = load_model(
        directory, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False,
        takes_images=recipe.takes_images, native=True, with_output=recipe.head is None,
        processor_options=recipe.processor,
    )  # fmt: skip
    width = model.config.get_text_config().hidden_size
    layers = _layers(directory, recipe.head, width) if recipe.head is not None else []
    return RecipeModel(TransformersBackend(model, processor, directory), layers)


def _check_architecture(directory: str, wanted: Sequence[str]) -> None:
    """Before the weights are loaded. A checkpoint whose configuration cannot be read is complained of by who loads it."""
    try:
        found = PretrainedConfig.get_config_dict(directory)[0].get("model_type")
    except (OSError, ValueError):
        return
    if wanted and found is not None and found not in wanted:
        raise ConfigError(f"model {directory!r}: its architecture is {found!r}, the recipe's {' or '.join(wanted)}")


def _layers(directory: str, head: HeadRead, width: int) -> list[Layer]:
    layers: list[Layer] = []
    for name in head.layers:
        weight = _tensor(directory, head.file, f"{name}.weight")
        if weight is None:
            raise ModelError(f"model {directory!r}: no weights {name + '.weight'!r} in {head.file}")
        bias = _tensor(directory, head.file, f"{name}.bias")
        layers.append((weight, np.zeros(len(weight)) if bias is None else bias))
        if weight.ndim != 2 or weight.shape[1] != width or layers[-1][1].shape != weight.shape[:1]:
            raise ModelError(f"model {directory!r}: head {name!r} is {weight.shape}, which does not fit {width}")
        width = len(weight)
    if not 0 <= head.output < width:
        raise ConfigError(f"model {directory!r}: its head has {width} outputs, the recipe reads number {head.output}")
    return layers


def _tensor(directory: str, file: str, ending: str) -> NDArray[np.float64] | None:
    """The weight whose name ends so, in a file of a checkpoint or in the shards that stand for it."""
    try:
        index = cached_file(directory, f"{file}.index.json", _raise_exceptions_for_missing_entries=False)
        shards = [file] if index is None else sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
        for shard in shards:
            with safe_open(cached_file(directory, shard), "pt") as weights:
                names: list[Any] = [key for key in list(weights.keys()) if key == ending or key.endswith(f".{ending}")]
                if names:
                    found: NDArray[np.float64] = weights.get_tensor(names[0]).double().numpy()
                    return found
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"model {directory!r}: {file}: {error}") from None
    return None
