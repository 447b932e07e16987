"""The model that a run starts from: loaded, its tags added, its adapters attached or its weights chosen."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from structdecode.backends.transformers.loading import load_model, load_processor
from structdecode.core.errors import ConfigError, MissingExtraError, ModelError
from structdecode.core.lookup import find_checkpoint
from structdecode.core.types import Schema
from structdecode.training.sft.adapters import with_adapters
from structdecode.training.sft.recipe import Recipe
from structdecode.training.sft.tags import add_tags


def load_base(recipe: Recipe, schema: Schema, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Model (on the CPU, or where its quantized weights have to be) and processor, ready to train.

    Weights that are trained are float32 and frozen ones in the recipe's precision.

    Raises:
        ConfigError: the recipe names no model, or none of its weights.
        ModelError: the model cannot be loaded.
    """
    if recipe.model is None:
        raise ConfigError("the recipe names no model to start from: give --model")
    frozen = "bfloat16" if recipe.precision == "bf16" else "float32"
    if recipe.method == "qlora":
        model, processor = _quantized(find_checkpoint(recipe.model), trust_remote_code)
    else:
        dtype = "float32" if recipe.method == "full" and not recipe.train_only else frozen
        model, processor = load_model(
            recipe.model, device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False
        )
    if recipe.special_tags:
        add_tags(model, processor, schema)
    if recipe.method != "full":
        model = with_adapters(model, recipe)
    elif recipe.train_only:
        freeze_all_but(model, recipe.train_only)
    return model, processor


def freeze_all_but(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Only weights whose names match are trained, in float32."""
    found = False
    for name, parameter in model.named_parameters():
        chosen = any(re.search(pattern, name) for pattern in patterns)
        found = found or chosen
        parameter.requires_grad_(chosen)
        if chosen:
            parameter.data = parameter.data.float()
    if not found:
        example = next(name for name, _ in model.named_parameters())
        raise ConfigError(f"train_only matches none of the weights: {', '.join(patterns)} (they go like {example})")


def _quantized(name: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """In 4 bits (NF4, double quantization), as in QLoRA (Dettmers et al., arXiv 2305.14314)."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name, quantization_config=config, dtype=torch.bfloat16, trust_remote_code=trust_remote_code
        )
    except ImportError:
        raise MissingExtraError("bitsandbytes", "qlora") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    return model, load_processor(name, trust_remote_code=trust_remote_code)
