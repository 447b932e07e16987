"""What is wrong with a checkpoint, found before memory or time is spent on it."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from structdecode.core.errors import ModelError
from structdecode.core.reading import open_regular, parse_json, read_text

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LAYERS = re.compile(r"(num|n)_?\w*(layers|blocks)|depth|encoder_layers|decoder_layers")
"""Settings that say how many modules are made, whatever a model calls them."""
_MISMATCH = re.compile(r"^(.*?)\s*\|\s*MISMATCH\s*\|.*?(ckpt: .*)$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PACKED = 16
"""The most parameters of a quantised model that one element of a tensor holds, with room to spare."""
_HEADER_BYTES = 100_000_000
"""As safetensors itself allows at most."""


def check_directory(directory: Path, trust_remote_code: bool, allow_pickle: bool, takes_images: bool = True) -> None:
    """Raises `ModelError` where a file is not there, or is one that could run code and may not."""
    if not (directory / "config.json").exists():
        raise ModelError(f"model {directory}: no config.json: not a checkpoint directory")
    try:
        config = parse_json(read_text(directory / "config.json"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {directory}: config.json is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {directory}: config.json is no mapping")
    if "auto_map" in config and not trust_remote_code:
        raise ModelError(
            f"model {directory}: brings code of its own; run it only if you trust it (--trust-remote-code)"
        )
    processors = ("processor_config.json", "preprocessor_config.json")
    if takes_images and not any((directory / file).exists() for file in processors):
        raise ModelError(f"model {directory}: no processor (preprocessor_config.json): text-only, or copy it beside it")
    has_safetensors = any(directory.glob("*.safetensors"))
    if not has_safetensors and any((directory / f).exists() for f in _PICKLED) and not allow_pickle:
        raise ModelError(
            f"model {directory}: pickled weights can run code; convert them to safetensors, or pass --allow-pickle"
        )
    if not has_safetensors and not allow_pickle:
        raise ModelError(f"model {directory}: no *.safetensors")


def check_size(config: Any, directory: Path, kind: Any = AutoModelForImageTextToText) -> None:
    """Refuses a configuration that has nothing to do with the weights; modules and memory would be taken without end.

    Args:
        kind: the class of transformers' that makes the model from it.

    Raises:
        ModelError: more layers than the checkpoint has tensors, cross-attention in layers that are none of the model's,
            or many times the parameters.
    """
    sizes = _tensor_sizes(directory)
    for place, settings in _sections(config.to_dict()):
        for name, value in settings.items():
            if isinstance(value, int) and _LAYERS.fullmatch(str(name)) and sizes and value > len(sizes):
                raise ModelError(
                    f"model {directory}: config.json: {place}{name} is {value:,}, but there are {len(sizes):,} tensors"
                )
        layers, crossed = settings.get("num_hidden_layers"), settings.get("cross_attention_layers")
        for layer in crossed if isinstance(layers, int) and isinstance(crossed, list) else ():
            if not 0 <= layer < layers:
                raise ModelError(
                    f"model {directory}: config.json: {place}cross_attention_layers has {layer}, but there are {layers} layers"
                )
    with torch.device("meta"):  # takes no memory
        wanted = sum(p.numel() for p in kind.from_config(config).parameters())
    if sizes and wanted > _PACKED * sum(sizes):
        raise ModelError(
            f"model {directory}: config.json asks for {wanted:,} parameters, but the checkpoint has {sum(sizes):,}"
        )


def _sections(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A configuration and those inside it, each with its name."""
    yield place, settings
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _sections(value, f"{place}{name}.")


def _tensor_sizes(directory: Path) -> list[int]:
    """Elements of each tensor, from the files' headers alone; nothing where there is none that can be read."""
    sizes: list[int] = []
    for path in directory.glob("*.safetensors"):
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            try:
                header = json.loads(file.read(min(length, _HEADER_BYTES)))
                sizes += [math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
                return []  # loading it says what is wrong
    return sizes


@contextmanager
def kept_report() -> Iterator[list[str]]:
    """Keeps what transformers would print about weights that do not fit, which can be pages."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(_COLOUR.sub("", record.getMessage()))  # type: ignore[method-assign]
    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "utils.loading_report")]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield said
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate, logger.level = propagate, level


def mismatch(said: list[str]) -> str | None:
    """The first weight in a kept report whose shape is not the model's, in words."""
    found = _MISMATCH.search("\n".join(said))
    return None if found is None else f"config.json and weights do not fit: {found[1]} ({' '.join(found[2].split())})"


def check_missing(report: Mapping[str, Any], name: str) -> None:
    """Raises `ModelError` where the checkpoint lacks weights, which would be random numbers; warns of ones it has
    too many.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise ModelError(
            f"model {name!r}: {len(missing)} weights of the model are not in the checkpoint ({missing[0]}"
            f"{', ...' if len(missing) > 1 else ''}): they would be random numbers"
        )
    if unexpected:
        warnings.warn(
            f"model {name!r}: {len(unexpected)} weights of the checkpoint have no place in the model "
            f"({unexpected[0]}{', ...' if len(unexpected) > 1 else ''})", stacklevel=4,
        )  # fmt: skip


def check_vocabulary(processor: Any, model: Any, name: str) -> None:
    """Raises `ModelError` where the tokenizer has tokens that the model has no embedding of."""
    tokenizer, embeddings = getattr(processor, "tokenizer", None), model.get_input_embeddings()
    if tokenizer is None or type(embeddings) is not nn.Embedding:
        return
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if number >= embeddings.num_embeddings:
        raise ModelError(
            f"model {name!r}: its tokenizer has token {number} ({token!r}), but the model embeds "
            f"{embeddings.num_embeddings}: it is another model's tokenizer, or the model was not resized to it"
        )
