"""A released reward model in memory: its backend, and its head where it has one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.loading import load_model
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.types import Prompt
from structdecode.verifiers.recipes.recipe import HeadRead, Recipe

Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weight [out, in] and bias [out]."""


class RecipeModel:
    """What a recipe's checkpoint is in memory."""

    def __init__(self, backend: TransformersBackend, layers: Sequence[Layer]) -> None:
        self.backend, self.layers = backend, layers

    def pieces(self, prompt: Prompt, steps: Sequence[str], answer: str, head: HeadRead) -> list[tuple[int, ...]]:
        """Tokens of an answer, cut where the head reads: behind each step's marker, or behind the closed turn."""
        codec = self.backend.codec
        if head.marker:
            return [(*codec.pieces([step])[0], *codec.encode(head.marker)) for step in steps]
        return [(*codec.pieces([answer])[0], *codec.closing(prompt))]

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
    model, processor = load_model(
        directory, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False,
        takes_images=recipe.images != "none", with_output=recipe.head is None, processor_options=recipe.processor,
    )  # fmt: skip
    found = model.config.model_type
    if recipe.architecture and found != recipe.architecture:
        raise ConfigError(f"model {directory!r}: its architecture is {found!r}, the recipe's {recipe.architecture!r}")
    width = model.config.get_text_config().hidden_size
    layers = _layers(Path(directory), recipe.head, width) if recipe.head is not None else []
    return RecipeModel(TransformersBackend(model, processor, directory), layers)


def _layers(directory: Path, head: HeadRead, width: int) -> list[Layer]:
    layers: list[Layer] = []
    for name in head.layers:
        weight = _tensor(directory, head.file, f"{name}.weight")
        if weight is None:
            raise ModelError(f"model {str(directory)!r}: no weights {name + '.weight'!r} in {head.file}")
        bias = _tensor(directory, head.file, f"{name}.bias")
        layers.append((weight, np.zeros(len(weight)) if bias is None else bias))
        if weight.ndim != 2 or weight.shape[1] != width or layers[-1][1].shape != weight.shape[:1]:
            raise ModelError(f"model {str(directory)!r}: head {name!r} is {weight.shape}, which does not fit {width}")
        width = len(weight)
    if not 0 <= head.output < width:
        raise ConfigError(
            f"model {str(directory)!r}: its head has {width} outputs, the recipe reads number {head.output}"
        )
    return layers


def _tensor(directory: Path, file: str, ending: str) -> NDArray[np.float64] | None:
    """The weight whose name ends so, in a file of a checkpoint or in the shards that stand for it."""
    from safetensors import SafetensorError, safe_open

    index = directory / f"{file}.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [file]
        for shard in shards:
            with safe_open(directory / shard, "pt") as weights:
                names: list[Any] = [key for key in list(weights.keys()) if key == ending or key.endswith(f".{ending}")]
                if names:
                    found: NDArray[np.float64] = weights.get_tensor(names[0]).double().numpy()
                    return found
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"model {str(directory)!r}: {file}: {error}") from None
    return None
