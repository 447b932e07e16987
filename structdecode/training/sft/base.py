"""The model that a run starts from: loaded, its tags added, its adapters attached or its weights chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from structdecode.backends.transformers.loading import load_model
from structdecode.backends.transformers.vision import vision_tower
from structdecode.errors import ConfigError, MissingExtraError, ModelError
from structdecode.training.sft.recipe import Recipe
from structdecode.types import Schema


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
        model, processor = _quantized(recipe.model, trust_remote_code)
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


# ------------------------------------------------------------------ what is trained


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


def with_adapters(model: Any, recipe: Recipe) -> Any:
    """The model with LoRA adapters (PEFT), which alone are trained; of the embeddings all, where tags are new tokens."""
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    if recipe.method == "qlora":
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=recipe.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )  # fmt: skip
    targets = recipe.lora_targets
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, lora_dropout=recipe.lora_dropout,
        target_modules=language_linears(model) if targets == "all-linear" else targets,
        modules_to_save=_embeddings(model) if recipe.special_tags else None,
    )  # fmt: skip
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets: {str(error).splitlines()[0]}") from error


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


def _quantized(name: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """In 4 bits (NF4, double quantization), as in QLoRA (Dettmers et al., arXiv 2305.14314)."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name, quantization_config=config, dtype=torch.bfloat16, trust_remote_code=trust_remote_code
        )
    except ImportError:
        raise ModelError("qlora needs bitsandbytes: pip install bitsandbytes") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    return model, AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)


# ------------------------------------------------------------------ tags as tokens


def add_tags(model: Any, processor: Any, schema: Schema) -> list[str]:
    """Makes each stage tag one token; a new row begins as the mean of the tokens that the tag had been.

    The tags are not *special* to the tokenizer: decoding that leaves special tokens out has to keep them.
    Mllama's input embeddings have a few rows more than its output layer (for the image token); they keep that many
    more, since that is how its configuration is read back.

    Returns:
        The tags that were added; those that were tokens already are not.
    """
    tokenizer = processor.tokenizer
    tags = [tag for stage in schema.stages for tag in (stage.begin, stage.end) if tag]
    before = {tag: tokenizer.encode(tag, add_special_tokens=False) for tag in tags}
    new = [tag for tag in tags if len(before[tag]) > 1]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    more_inputs = embeddings.num_embeddings - head.out_features if head is not None else 0
    old = [layer.weight.detach().clone() for layer in (embeddings, head) if layer is not None]
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in new])
    if not new or (len(tokenizer) <= embeddings.num_embeddings - more_inputs):
        rows = None  # room is left in both
    else:
        rows = len(tokenizer)
        model.resize_token_embeddings(rows, mean_resizing=False)
        if more_inputs > 0:
            model.set_input_embeddings(_grown(model.get_input_embeddings(), rows + more_inputs))
    with torch.no_grad():
        layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
        for layer, weight in zip(layers, old, strict=True):
            for tag in new:
                row = tokenizer.convert_tokens_to_ids(tag)
                layer.weight[row] = weight[[i for i in before[tag] if i < len(weight)]].mean(dim=0)
    return new


def _grown(embeddings: nn.Embedding, rows: int) -> nn.Embedding:
    """The same with more rows at the end, zero."""
    old = embeddings.weight
    grown = nn.Embedding(rows, old.shape[1], embeddings.padding_idx, dtype=old.dtype, device=old.device)
    with torch.no_grad():
        grown.weight.zero_()
        grown.weight[: len(old)] = old
    return grown


# ------------------------------------------------------------------ merging


def merge(adapter: str | Path, out: str | Path, *, base: str | None = None, dtype: str = "auto") -> None:
    """Writes a checkpoint with the adapters' weights added to the base model's.

    Args:
        adapter: a directory that PEFT saved, with the processor beside it. out: a new directory.
        base: the model that was trained from; default: what the adapter says.
        dtype: to merge in; ``auto`` is the base's own.

    Raises:
        ConfigError: no adapter there. ModelError: the base model cannot be loaded.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoProcessor

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter}: no adapter_config.json: not a directory of adapters")
    name = base or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    model, processor = load_model(str(name), device="cpu", dtype=dtype, trust_remote_code=False, allow_pickle=False)
    if any(Path(adapter).glob("tokenizer*.json")):
        processor = AutoProcessor.from_pretrained(str(adapter))
        schema_rows = len(processor.tokenizer)
        if schema_rows > model.get_output_embeddings().out_features:
            _regrow(model, schema_rows)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(str(out))
    processor.save_pretrained(str(out))


def _regrow(model: Any, rows: int) -> None:
    more_inputs = model.get_input_embeddings().num_embeddings - model.get_output_embeddings().out_features
    model.resize_token_embeddings(rows, mean_resizing=False)
    if more_inputs > 0:
        model.set_input_embeddings(_grown(model.get_input_embeddings(), rows + more_inputs))
