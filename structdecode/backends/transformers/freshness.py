"""What a model is made of, in a few bytes: equal before and after means that nothing kept from before is stale.

No counter says when a model has changed: fused optimizers and writes through ``.data`` do not raise a tensor's
``_version``, adapters are switched by attributes of modules, an attention implementation by one of a configuration.
So both are looked at. **Values**: every word of every parameter and buffer goes into two integer sums (by column and
by row of a matrix of words). Integers wrap and do not round, so no change of a single element is missed, however
small; one of several elements is missed where all its sums stay equal at once. That reads the weights twice, about
what one or two decoding steps read. **Structure**: which tensors there are and where they lie, and the plain values
among the attributes of all modules and configurations, with their hooks and forward functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

WIDTH = 4093
"""Columns of the matrix that a tensor's words are laid out in: prime, so that equal rows of weights do not line up."""

_OF_A_CALL = frozenset({"training", "rope_deltas"})
"""Attributes that say nothing about how the model decodes."""

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16))


def values(model: nn.Module) -> bytes:
    """A digest of the values of all parameters and buffers; those on the meta device have none."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for _, tensor in _tensors(model):
        if tensor.device.type != "meta" and tensor.numel():
            by_device.setdefault(tensor.device, []).extend(_sums(tensor))
    digest = hashlib.blake2b(digest_size=16)
    for device, sums in by_device.items():
        digest.update(str(device).encode())
        digest.update(torch.cat(sums).cpu().numpy().tobytes())
    return digest.digest()


def structure(model: nn.Module) -> bytes:
    """A digest of everything else: tensors by place, shape and type; attributes, hooks and configurations."""
    tensors = [
        (name, id(tensor), 0 if tensor.device.type == "meta" else tensor.data_ptr(), tuple(tensor.shape),
         tensor.stride(), str(tensor.dtype), str(tensor.device))
        for name, tensor in _tensors(model)
    ]  # fmt: skip
    modules = [
        (name, id(module), type(module).__qualname__, _plain({k: v for k, v in vars(module).items() if k not in _OF_A_CALL}))
        for name, module in list(model.named_modules())
    ]  # fmt: skip
    return hashlib.blake2b(repr((tensors, modules)).encode(), digest_size=16).digest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield from ((name, part) for part in _parts(tensor))


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """What a tensor is stored as: itself, or the inner tensors of a wrapper (quantised, distributed)."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(tensor, name))


def _sums(tensor: Tensor) -> list[Tensor]:
    """Of the tensor's bytes as integers in rows of `WIDTH`: sums of columns and of rows, and what is left over."""
    words = tensor.detach().contiguous().flatten().view(torch.uint8)
    for size, kind in _WORDS:
        if words.numel() % size == 0 and words.data_ptr() % size == 0 and words.storage_offset() % size == 0:
            words = words.view(kind)
            break
    rows = len(words) // WIDTH
    matrix, rest = words[: rows * WIDTH].view(rows, WIDTH), words[rows * WIDTH :]
    return [matrix.sum(0), matrix.sum(1), rest.long()] if rows else [rest.long()]


def _plain(value: Any, depth: int = 6) -> Any:
    """A value as far as it is plain data, the same for the same; other objects are known by what they are."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device | Enum):
        return value
    if isinstance(value, nn.Module | FunctionType):
        return id(value)
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if depth and isinstance(value, list | tuple):
        return [_plain(each, depth - 1) for each in value]
    if depth and isinstance(value, set | frozenset):
        return sorted(repr(_plain(each, depth - 1)) for each in value)
    if depth and isinstance(value, dict):
        return [(_plain(key), _plain(each, depth - 1)) for key, each in list(value.items())]
    if depth and isinstance(value, PretrainedConfig):
        return _plain(vars(value), depth - 1)
    return type(value).__qualname__
