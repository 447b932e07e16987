"""LoRA adapters (Hu et al., arXiv 2106.09685) through PEFT: attached before training, merged after it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from structdecode.backends.transformers.loading import load_model, load_processor
from structdecode.backends.transformers.vision import vision_tower
from structdecode.core.errors import ConfigError, MissingExtraError, ModelError
from structdecode.training.sft.recipe import Recipe
from structdecode.training.sft.tags import grow


def with_adapters(model: Any, recipe: Recipe) -> Any:
    """The model with a recipe's adapters, which alone are trained; of the embeddings all, where tags are new tokens."""
    if recipe.method == "qlora":
        model = _ready_for_adapters(model, recipe.gradient_checkpointing)
    return attached(
        model, recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout, targets=recipe.lora_targets,
        saved_whole=_embeddings(model) if recipe.special_tags else None,
    )  # fmt: skip


def attached(
    model: Any,
    rank: int,
    alpha: int,
    dropout: float,
    *,
    targets: str | Sequence[str] = "all-linear",
    saved_whole: list[str] | None = None,
) -> Any:
    """The model with adapters.

    Args:
        targets: names of linear layers, or ``all-linear``: those of the language model.
        saved_whole: names of modules that are trained (and saved) as they are.

    Raises:
        ConfigError: the model has no layers of these names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, modules_to_save=saved_whole,
        target_modules=language_linears(model) if targets == "all-linear" else targets,
    )  # fmt: skip
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets: {str(error).splitlines()[0]}") from error


def _ready_for_adapters(model: Any, checkpointing: bool) -> Any:
    """A model in 4 bits, its norms in float32."""
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
    )


def language_linears(model: Any) -> str:
    """A regular expression for the linear layers of the language model but the output layer, as PEFT takes it."""
    decoder, tower, head = model.get_decoder(), vision_tower(model), model.get_output_embeddings()
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    inside = set(tower.modules()) if tower is not None else set()
    leaves = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module not in inside
    }
    if not prefix or not leaves:
        raise ModelError(f"{type(model).__name__}: its language model cannot be told apart: name lora_targets")
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(leaves))})"


def _embeddings(model: Any) -> list[str]:
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is m for m in modules)]


def merge(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Writes a checkpoint with the adapters' weights added to the base model's.

    Args:
        adapter: a directory that PEFT saved, with the processor beside it. out: a new directory.
        base: the model that was trained from; default: what the adapter says.
        dtype: to merge in; ``auto`` is float32, as everywhere on a CPU.

    Raises:
        ConfigError: no adapter there. ModelError: the base model cannot be loaded.
    """
    from peft import PeftConfig, PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no adapter_config.json: not a directory of adapters")
    name = base or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    model, processor = load_model(
        str(name), device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False
    )
    if (Path(adapter) / "tokenizer_config.json").is_file():
        processor = load_processor(adapter)
    rows, layer = _rows(adapter, model), model.get_output_embeddings() or model.get_input_embeddings()
    if rows is not None and rows != len(layer.weight):
        grow(model, rows)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(out))
    processor.save_pretrained(str(out))


def _rows(adapter: str | Path, model: Any) -> int | None:
    """For how many tokens the output layer (else the embeddings) was saved with the adapters; None where it was not.

    A tokenizer does not tell: models have rows to spare, and Mllama's image token has none in its output layer.
    """
    from peft import load_peft_weights

    layer = model.get_output_embeddings() or model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is layer)
    saved = load_peft_weights(str(adapter), device="cpu")
    return next((len(weight) for key, weight in saved.items() if key.endswith(f"{name}.weight")), None)
