"""Encodes a picture once: a memory for the vision tower's outputs, keyed by what goes in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TOWERS = ("vision_model", "vision_tower", "visual", "vision_encoder", "image_tower", "vqmodel")
"""What transformers' image-text models call the module that sees the pixels."""


def vision_tower(model: Any) -> nn.Module | None:
    """The module that encodes pictures, None where it goes by no known name."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters' wrappers
    for owner in (base, getattr(base, "model", None)):
        for name in _TOWERS:
            tower = getattr(owner, name, None)
            if isinstance(tower, nn.Module):
                return tower
    return None


class ImageMemory:
    """Outputs of the vision tower, kept as long as the session that saw the pictures."""

    def __init__(self) -> None:
        self.outputs: dict[bytes, Any] = {}
        self.misses = 0
        self._epoch = 0

    @contextmanager
    def over(self, tower: nn.Module | None, epoch: int) -> Iterator[None]:
        """While this is open the tower computes only what it has not computed before; then it is as it was.

        What was computed in an earlier epoch (with other weights) is forgotten.
        """
        if epoch != self._epoch:
            self.outputs.clear()
            self._epoch = epoch
        if tower is None:
            self.misses += 1
            yield
            return
        name = "encode" if hasattr(tower, "encode") else "forward"  # tokenizers of pictures (VQ) are asked to encode
        compute = getattr(tower, name)

        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = _digest([*args, *(kwargs[name] for name in sorted(kwargs))])
            if key not in self.outputs:
                self.misses += 1
                self.outputs[key] = compute(*args, **kwargs)
            return copy.copy(self.outputs[key])  # callers put their own fields into an output (Qwen does)

        had_own = name in vars(tower)
        setattr(tower, name, remembered)
        try:
            yield
        finally:
            if had_own:
                setattr(tower, name, compute)
            else:
                delattr(tower, name)


def _digest(values: list[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Tensor):
            digest.update(repr((value.shape, value.dtype)).encode())
            digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.digest()
