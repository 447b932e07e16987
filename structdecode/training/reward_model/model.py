"""The network: an image-text model, and one number a token."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from structdecode.backends.transformers.loading import check_processor, load_model
from structdecode.core.errors import ModelError
from structdecode.core.lookup import find_checkpoint
from structdecode.training.sft.adapters import attached
from structdecode.verifiers.reward_model.config import FILE, HEAD, RewardConfig
from structdecode.verifiers.reward_model.network import RewardModel


def from_base(
    name: str, *, likelihood: bool = False, language_modelling: float = 0.0, trust_remote_code: bool = False,
    dtype: str = "float32",
) -> tuple[RewardModel, Any]:  # fmt: skip
    """An untrained reward model (on the CPU) on top of an image-text model, and its processor.

    Raises:
        ModelError: it cannot be loaded, or is made in a way that leaves no model under the output layer.
    """
    model, processor = load_model(
        find_checkpoint(name), device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False
    )
    check_processor(processor, name)
    backbone = model.base_model
    if likelihood:
        return RewardModel(model, likelihood=True, language_modelling=language_modelling), processor
    if backbone is model or backbone is model.get_output_embeddings():
        raise ModelError(f"model {name!r}: {type(model).__name__} has no base model without an output layer")
    return RewardModel(backbone), processor


def save(
    model: RewardModel, processor: Any, config: RewardConfig, directory: str | Path,
    *, extra: Callable[[Path], None] = lambda place: None,
) -> None:  # fmt: skip
    """Writes a new directory, whole or not at all: backbone, processor, head and description.

    Args:
        extra: writes more into it before it has its name.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.backbone.save_pretrained(partial)
    processor.save_pretrained(partial)
    save_file({name: value.contiguous().cpu() for name, value in model.head.state_dict().items()}, partial / HEAD)
    (partial / FILE).write_text(config.text(), encoding="utf-8")
    extra(partial)
    partial.rename(directory)


def choose_trained(model: RewardModel, recipe: Any) -> None:
    """Freezes what the method leaves alone; of ``lora``, puts adapters on the language model's linear layers.

    Weights that are trained are float32.
    """
    if recipe.method != "full":
        model.backbone.requires_grad_(False)
    if recipe.method == "lora":
        model.backbone = attached(model.backbone, recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout)
    if recipe.gradient_checkpointing and recipe.method != "head":
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged(model: RewardModel) -> RewardModel:
    """The same with adapters added to the weights they stand beside, in place."""
    if hasattr(model.backbone, "merge_and_unload"):
        model.backbone = model.backbone.merge_and_unload()
    return model
