"""The KV cache of a prompt and of the answers that branch from it.

The prompt's keys and values are kept once; a branch keeps only its own tokens'. For a batch they are put
together, prompt | padding | own tokens, with the padding masked. This is the plain form, made to be obviously
right: it copies the prompt for every row of a batch, and is the specification for anything faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [rows, heads, tokens, head_dim]."""


@dataclass
class Branch:
    """An answer's first ``length`` tokens behind the prompt, and the logits after them where they are known."""

    own: Layers
    length: int
    logits: Tensor | None = None  # [V]


@dataclass
class Prefix:
    """A prompt in the cache.

    Attributes:
        layers: self-attention layers hold the prompt's tokens, cross-attention layers the picture's.
        cross: which layers are cross-attention (they never grow).
        length: prompt tokens in the cache. next_position: the next token's position (mRoPE's lags behind ``length``).
    """

    layers: Layers
    cross: frozenset[int]
    length: int
    next_position: int
    logits: Tensor  # [V]
    cross_mask: Tensor | None  # [1, 1, images, tiles]: what text behind the prompt sees

    def root(self) -> Branch:
        own = [(k[:, :, :0], v[:, :, :0]) for k, v in self.layers]
        return Branch(own, 0, self.logits)


def batch_cache(prefix: Prefix, branches: Sequence[Branch]) -> tuple[DynamicCache, Tensor]:
    """A cache with a row for each branch and its mask, [B, prompt + longest] of 0 and 1."""
    rows, longest = len(branches), max(branch.length for branch in branches)
    cache = DynamicCache()
    for index, (keys, values) in enumerate(prefix.layers):
        shared = (keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
        if index not in prefix.cross:
            owns = [_padded([branch.own[index][i] for branch in branches], longest) for i in (0, 1)]
            shared = (torch.cat([shared[0], owns[0]], dim=2), torch.cat([shared[1], owns[1]], dim=2))
        cache.update(*shared, index)  # a cross-attention layer without a picture stays empty, and the model skips it
    lengths = torch.tensor([branch.length for branch in branches], device=prefix.logits.device)
    places = torch.arange(prefix.length + longest, device=lengths.device)
    is_prompt, is_own = places < prefix.length, places >= prefix.length + longest - lengths[:, None]
    return cache, (is_prompt | is_own).long()


def _padded(tensors: list[Tensor], width: int) -> Tensor:
    """[1, H, T_i, D] each -> [B, H, width, D], zeros on the left."""
    return torch.cat([torch.nn.functional.pad(t, (0, 0, width - t.shape[2], 0)) for t in tensors])


def harvest(cache: DynamicCache, prefix: Prefix, row: int, keep: Tensor) -> Layers:
    """A copy of one row's own keys and values at the places in ``keep`` (indices into the cache)."""
    own = []
    for index, layer in enumerate(cache.layers):
        empty = index in prefix.cross
        keys, values = layer.keys[row : row + 1], layer.values[row : row + 1]
        own.append((keys[:, :, :0], values[:, :, :0]) if empty else (keys[:, :, keep], values[:, :, keep]))
    return own
