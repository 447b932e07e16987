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

SMALL = 1 << 17
"""Words up to which tensors are summed together: then the calls cost more than the sums."""

_OF_A_CALL = frozenset({"training", "rope_deltas"})
"""Attributes that say nothing about how the model decodes."""

_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, Enum)

_LAID_OUT_ANEW = frozenset({"Params4bit", "Int8Params"})
"""Quantised weights of bitsandbytes, which their own first forward lays out anew: judged by place alone, as nothing
trains them and merging puts others in their place."""

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16))


def values(model: nn.Module) -> bytes:
    """A digest of the values of all parameters and buffers; those on the meta device have none, and quantised ones none that lasts."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for _, tensor in _tensors(model):
        if tensor.device.type != "meta" and tensor.numel() and type(tensor).__name__ not in _LAID_OUT_ANEW:
            words = _words(tensor)
            alike.setdefault((words.device, words.dtype), []).append(words)
    digest = hashlib.blake2b(digest_size=16)
    for (device, kind), tensors in alike.items():
        digest.update(f"{device} {kind}".encode())
        small = [words for words in tensors if len(words) < SMALL]
        large = [words for words in tensors if len(words) >= SMALL]
        sums = [part for words in [*large, *([torch.cat(small)] if small else [])] for part in _sums(words)]
        digest.update(torch.cat(sums).cpu().numpy().tobytes())
    return digest.digest()


def structure(model: nn.Module) -> bytes:
    """A digest of everything else: tensors by place, shape and type; attributes, hooks and configurations."""
    tensors = [
        (name, id(tensor), 0 if tensor.device.type == "meta" else tensor.data_ptr(), tuple(tensor.shape),
         tensor.stride(), str(tensor.dtype), str(tensor.device))
        for name, tensor in _tensors(model)
    ]  # fmt: skip
    configs: dict[int, Any] = {}
    modules = [
        (name, id(module), type(module).__qualname__,
         [(key, _plain(value, configs)) for key, value in list(vars(module).items())
          if key not in _OF_A_CALL and not (isinstance(value, dict) and not value)])
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


def _words(tensor: Tensor) -> Tensor:
    """The tensor's bytes as integers, as wide ones as they fill. [W]"""
    flat = tensor.detach().contiguous().flatten()
    size = flat.element_size()
    for width, kind in _WORDS:
        if not any(at % width for at in (flat.numel() * size, flat.data_ptr(), flat.storage_offset() * size)):
            return flat.view(kind)
    return flat.view(torch.uint8)


def _sums(words: Tensor) -> list[Tensor]:
    """Of words in rows of `WIDTH`: the sums of columns and of rows, and what is left over."""
    rows = len(words) // WIDTH
    matrix, rest = words[: rows * WIDTH].view(rows, WIDTH), words[rows * WIDTH :]
    return [matrix.sum(0), matrix.sum(1), rest.long()] if rows else [rest.long()]


def _plain(value: Any, configs: dict[int, Any], depth: int = 6) -> Any:
    """A value as far as it is plain data, the same for the same; other objects are known by what they are.

    ``configs`` has the configurations that were met before: most modules refer to one of a few.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return depth and [
            (_plain(k, configs, depth - 1), _plain(v, configs, depth - 1)) for k, v in list(value.items())
        ]
    if isinstance(value, nn.Module | FunctionType):
        return id(value)
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if isinstance(value, list | tuple):
        return depth and [_plain(each, configs, depth - 1) for each in list(value)]
    if isinstance(value, set | frozenset):
        return depth and sorted(repr(_plain(each, configs, depth - 1)) for each in list(value))
    if isinstance(value, PretrainedConfig):
        if id(value) not in configs:
            configs[id(value)] = len(configs)
            return len(configs) - 1, _plain(vars(value), configs, depth)
        return configs[id(value)]
    return type(value).__qualname__
