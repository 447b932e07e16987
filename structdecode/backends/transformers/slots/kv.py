"""Keys and values made for forks: what is shared is kept once and by reference, what is a row's own sits in its slot.

A `Segment` is an answer's beginning (prompt, then the stages that were chosen) that several rows continue. It
grows in place while nobody else has grown it, and copies itself otherwise (copy-on-write). A `Pool` has a slot
for each row of the batch; `SlotCache` shows its rows to a transformers model as a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each self-attention layer, [1, heads, tokens, head_dim]."""

SPARE = 96
"""Tokens that a segment's buffer can grow by before it has to move."""


@dataclass
class _Tip:
    """How much of a buffer is used, whoever uses it."""

    used: int


class Segment:
    """The first ``length`` tokens of an answer's text, from the prompt on."""

    def __init__(self, buffers: Layers, length: int, tip: _Tip | None = None) -> None:
        self.buffers, self.length = buffers, length
        self._tip = tip or _Tip(length)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers[index]
        return keys[:, :, : self.length], values[:, :, : self.length]

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in self.buffers)

    def head(self, length: int) -> Segment:
        """The first tokens of this one, by reference."""
        return Segment(self.buffers, length, self._tip)

    def extended(self, own: Layers) -> Segment:
        """This segment with a row's own tokens behind it: in place where the place is free, else a copy."""
        more = own[0][0].shape[2]
        total = self.length + more
        if self._tip.used == self.length and total <= self.buffers[0][0].shape[2]:
            grown = Segment(self.buffers, total, self._tip)
            self._tip.used = total
        else:
            grown = Segment([tuple(_room(t, self.length, total + SPARE) for t in pair) for pair in self.buffers], total)  # type: ignore[misc]
        for (keys, values), (own_keys, own_values) in zip(grown.buffers, own, strict=True):
            keys[:, :, self.length : total] = own_keys
            values[:, :, self.length : total] = own_values
        return grown


def _room(tensor: Tensor, used: int, capacity: int) -> Tensor:
    """A copy of the first ``used`` tokens with room for more. [1, H, T, D] -> [1, H, capacity, D]"""
    fresh = tensor.new_empty(*tensor.shape[:2], capacity, tensor.shape[3])
    fresh[:, :, :used] = tensor[:, :, :used]
    return fresh


class Pool:
    """A slot for each row's own keys and values. Grows by doubling, in rows and in tokens."""

    def __init__(self, like: Layers) -> None:
        self._like = [(k.shape[1], k.shape[3], v.shape[3]) for k, v in like]
        self._options: dict[str, Any] = {"dtype": like[0][0].dtype, "device": like[0][0].device}
        self.rows = self.width = 0
        self.keys: list[Tensor] = []  # of each layer [rows, H, width, D]
        self.values: list[Tensor] = []

    @property
    def bytes_per_token(self) -> int:
        size = torch.empty((), dtype=self._options["dtype"]).element_size()
        return sum(heads * (dk + dv) for heads, dk, dv in self._like) * size

    @property
    def device(self) -> torch.device:
        return torch.device(self._options["device"])

    def growth(self, rows: int, width: int) -> int:
        """Bytes that `ensure` would allocate."""
        new_rows, new_width = self._size(rows, width)
        grows = (new_rows, new_width) != (self.rows, self.width)
        return new_rows * new_width * self.bytes_per_token if grows else 0

    def _size(self, rows: int, width: int) -> tuple[int, int]:
        new_rows = self.rows if rows <= self.rows else 1 << (rows - 1).bit_length()
        new_width = self.width if width <= self.width else max(64, 1 << (width - 1).bit_length())
        return new_rows, new_width

    def ensure(self, rows: int, width: int) -> None:
        """Makes room for ``rows`` rows of ``width`` tokens; what is in the slots stays."""
        if rows <= self.rows and width <= self.width:
            return
        rows, width = self._size(rows, width)
        keys = [torch.zeros(rows, h, width, dk, **self._options) for h, dk, _ in self._like]
        values = [torch.zeros(rows, h, width, dv, **self._options) for h, _, dv in self._like]
        for new, old in zip((*keys, *values), (*self.keys, *self.values), strict=False):
            new[: self.rows, :, : self.width] = old
        self.keys, self.values, self.rows, self.width = keys, values, rows, width

    def put(self, slot: int, at: int, layers: Layers) -> None:
        """Copies tokens into a slot."""
        for index, (keys, values) in enumerate(layers):
            end = at + keys.shape[2]
            self.keys[index][slot, :, at:end] = keys[0]
            self.values[index][slot, :, at:end] = values[0]

    def take(self, slot: int, begin: int, end: int) -> Layers:
        """A copy of some of a slot's tokens."""
        return [
            (keys[slot : slot + 1, :, begin:end].clone(), values[slot : slot + 1, :, begin:end].clone())
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def move(self, source: int, target: int, length: int) -> None:
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]


class SlotCache(Cache):
    """The first rows of a pool, as a cache: what a layer computes is written at each row's own end.

    Cross-attention layers hold nothing here; the attention function knows the rows' pictures.
    """

    def __init__(self, pool: Pool, layers: int, cross: frozenset[int], pictured: bool) -> None:
        slots = iter(range(layers))
        super().__init__(
            layers=[_Picture(pictured) if i in cross else _Slots(pool, next(slots)) for i in range(layers)]
        )

    def set_targets(self, places: Tensor | int, rows: int, width: int) -> None:
        """Where the next tokens go: ``places`` [rows, tokens], or the place of the first in every row.

        Attention sees the first ``width`` tokens.
        """
        everywhere = isinstance(places, Tensor)
        numbers = torch.arange(rows, device=places.device)[:, None] if isinstance(places, Tensor) else None
        for layer in self.layers:
            if isinstance(layer, _Slots):
                layer.target = (numbers, places) if everywhere else (slice(rows), slice(places, width))
                layer.width = width


class _Slots(CacheLayerMixin):
    is_compileable = False

    def __init__(self, pool: Pool, index: int) -> None:
        super().__init__()
        self.pool, self.index, self.is_initialized = pool, index, True
        self.keys = self.values = torch.zeros(1)  # models ask whether it is empty, and get theirs from `update`
        self.target: Any
        self.width = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.pool.keys[self.index], self.pool.values[self.index]  # [R, H, W, D]
        keys.transpose(1, 2)[self.target] = key_states.transpose(1, 2)
        values.transpose(1, 2)[self.target] = value_states.transpose(1, 2)
        rows = key_states.shape[0]
        return keys[:rows, :, : self.width], values[:rows, :, : self.width]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the pool is there already."""

    def get_seq_length(self) -> int:
        return self.width

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.width, 0


class _Picture(_Slots):
    """Tells the model whether there is a picture to attend to; without one it leaves the layer out."""

    def __init__(self, pictured: bool) -> None:
        CacheLayerMixin.__init__(self)
        self.keys = self.values = torch.zeros(1 if pictured else 0)
        self.is_initialized = True
