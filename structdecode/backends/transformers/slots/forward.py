"""One forward of the model for the rows in the slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from structdecode.backends.transformers.slots.attention import Batch, Seen, Shared, attending
from structdecode.backends.transformers.slots.kv import Layers, Pool, Segment, SlotCache
from structdecode.backends.transformers.slots.prefixes import CrossLayers


@dataclass(frozen=True)
class View:
    """The pictures a row sees. ``mask`` is additive, [1, 1, 1, S], None where all of them is seen."""

    cross: CrossLayers
    mask: Tensor | None


@dataclass(frozen=True)
class Place:
    """A text in the cache: where a row can go on.

    Attributes:
        segment: its beginning, shared. own: the tokens behind that, None where there are none.
        offset: the position of the token at place i is i + offset.
        logits: [V], behind its last token, where they are known.
    """

    segment: Segment
    own: Layers | None
    offset: int
    view: View | None = None
    logits: Tensor | None = None

    @property
    def own_length(self) -> int:
        return 0 if self.own is None else self.own[0][0].shape[2]

    @property
    def length(self) -> int:
        return self.segment.length + self.own_length

    def as_segment(self) -> Place:
        """The same text, all of it shared."""
        return self if self.own is None else replace(self, segment=self.segment.extended(self.own), own=None)


@dataclass
class Occupant:
    """A row in a slot.

    Attributes:
        lone: nobody else goes on from its segment: that is copied into the slot, one attention does for both.
        chunk_mask: which pictures' patches the next tokens see, additive [1, 1, T, S]; None: what the place says.
        chunk_blind: [T], which of the next tokens see no picture at all; None where all do.
        base: tokens of the segment that are in the slot. filled: all tokens in the slot.
    """

    place: Place
    lone: bool = False
    chunk_mask: Tensor | None = None
    chunk_blind: Tensor | None = None
    base: int = 0
    filled: int = 0

    @property
    def coming(self) -> int:
        """Tokens that it is known to need room for."""
        return 0

    @property
    def picture_mask(self) -> Tensor | None:
        """What its next tokens see of its pictures."""
        if self.chunk_mask is not None or self.place.view is None:
            return self.chunk_mask
        return self.place.view.mask


O = TypeVar("O", bound=Occupant)  # noqa: E741


class Slots(Generic[O]):
    """Rows in the first slots of a pool, without gaps."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.rows: list[O] = []
        self.changed = True

    def add(self, row: O) -> None:
        segment, slot = row.place.segment, len(self.rows)
        row.base = segment.length if row.lone else 0
        row.filled = row.base + row.place.own_length
        self.pool.ensure(slot + 1, row.filled + 1)
        if row.base:
            self.pool.put(slot, 0, [segment.layer(i) for i in range(len(segment.buffers))])
        if row.place.own is not None:
            self.pool.put(slot, row.base, row.place.own)
        self.rows.append(row)
        self.changed = True

    def growth(self, row: O) -> int:
        """Bytes that the pool would have to allocate for one more row and the tokens that it brings."""
        length = row.place.length if row.lone else row.place.own_length
        return self.pool.growth(len(self.rows) + 1, length + row.coming)

    def remove(self, index: int) -> None:
        """The last row moves into the gap."""
        last = self.rows.pop()
        if index < len(self.rows):
            self.pool.move(len(self.rows), index, last.filled)
            self.rows[index] = last
        self.changed = True

    def grown(self, index: int, logits: Tensor | None, keep: int | None = None) -> Place:
        """Where a row has got to, with ``keep`` of its new tokens (None: all)."""
        row = self.rows[index]
        end = row.filled if keep is None else min(row.filled, row.base + row.place.own_length + keep)
        own = self.pool.take(index, row.base, end) if end > row.base else None
        return replace(row.place, own=own, logits=logits)


class Forward:
    """Runs tokens behind the rows in the slots.

    Args:
        run: the model's forward; returns its logits [n, kept tokens, V].
        configs: of the text model, where the attention function is named.
        layers: how many layers the text model has; ``cross``: which of them are cross-attention.
    """

    def __init__(
        self, run: Callable[..., Tensor], configs: Sequence[Any], layers: int, cross: frozenset[int], max_length: int
    ) -> None:
        self.run, self.configs, self.layers, self.cross, self.max_length = run, configs, layers, cross, max_length
        self._position = {layer: at for at, layer in enumerate(i for i in range(layers) if i not in cross)}
        self._kept: dict[int, tuple[SlotCache, Batch]] = {}

    def full(self, row: Occupant) -> bool:
        """Whether the model's context has no room for another token."""
        return row.place.segment.length - row.base + row.filled >= self.max_length

    def __call__(self, slots: Slots[Any], tokens: Sequence[Sequence[int]], every: bool = False) -> Tensor:
        """Logits behind each row's last token, [n, 1, V], or behind every token (right-padded), [n, T, V]."""
        rows: list[Occupant] = slots.rows
        lengths = [len(row_tokens) for row_tokens in tokens]
        longest = max(lengths)
        filled = [row.filled for row in rows]
        width = max(filled) + longest
        slots.pool.ensure(len(rows), width)
        device = slots.pool.keys[0].device
        ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in tokens], device=device)
        steps = torch.arange(longest, device=device)
        places = torch.tensor(filled, device=device)[:, None] + steps  # [n, T]
        begins = [row.place.segment.length - row.base + row.filled + row.place.offset for row in rows]
        cache, batch = self._arranged(slots, longest)
        even = min(filled) == max(filled)
        cache.aim(filled[0] if even else places, len(rows), width)
        batch.own_mask = None if even and longest == 1 else self._own_mask(places, width, slots.pool.keys[0].dtype)
        last = sorted({length - 1 for length in lengths})
        with attending(self.configs):
            logits = self.run(
                input_ids=ids, position_ids=torch.tensor(begins, device=device)[:, None] + steps, attention_mask=None,
                past_key_values=cache, use_cache=True, rows=batch,
                logits_to_keep=0 if every else torch.tensor(last, device=device),
                **self._blindness(rows, longest, ids),
            )  # fmt: skip
        for row, length in zip(rows, lengths, strict=True):
            row.filled += length
        if every or len(last) == 1:
            return logits
        at = torch.tensor([last.index(length - 1) for length in lengths], device=device)
        return logits[torch.arange(len(rows), device=device), at][:, None]

    @staticmethod
    def _own_mask(places: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        unseen = torch.arange(width, device=places.device) > places[..., None]  # [n, T, width]
        return torch.zeros(unseen.shape, dtype=dtype, device=places.device).masked_fill_(unseen, -torch.inf)[:, None]

    def _arranged(self, slots: Slots[Any], tokens: int) -> tuple[SlotCache, Batch]:
        """The cache and the batch's groups; computed anew only when rows have come or gone, or prompts are fed."""
        if not slots.changed and tokens == 1 and id(slots) in self._kept:
            return self._kept[id(slots)]
        rows: list[Occupant] = slots.rows
        device = slots.pool.device
        by_segment: dict[int, list[int]] = defaultdict(list)
        by_view: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            if not row.base and row.place.segment.length:
                by_segment[id(row.place.segment)].append(index)
            if row.place.view is not None:
                by_view[id(row.place.view.cross), id(row.picture_mask)].append(index)

        def numbers(indices: list[int]) -> Tensor | None:
            return None if len(indices) == len(rows) else torch.tensor(indices, device=device)

        shared = [Shared(rows[group[0]].place.segment, numbers(group)) for group in by_segment.values()]
        seen = []
        for group in by_view.values():
            first = rows[group[0]]
            assert first.place.view is not None
            seen.append(Seen(first.place.view.cross, numbers(group), first.picture_mask))
        cache = SlotCache(slots.pool, self.layers, self.cross, pictured=bool(seen))
        batch = Batch(None, shared, seen, self.cross, self._position)
        self._kept = {id(slots): (cache, batch)} if tokens == 1 else {}
        slots.changed = False
        return cache, batch

    def _blindness(self, rows: Sequence[Occupant], tokens: int, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens see no picture, where some do and some do not: the model masks their feed-forward then."""
        if not self.cross or all(row.place.view is None for row in rows):
            return {}
        if all(row.place.view is not None and row.chunk_blind is None for row in rows):
            return {}
        seeing = torch.ones(len(rows), tokens, dtype=torch.long, device=ids.device)
        for index, row in enumerate(rows):
            if row.place.view is None:
                seeing[index] = 0
            elif row.chunk_blind is not None:
                seeing[index, : len(row.chunk_blind)] = (~row.chunk_blind).long()
        return {"cross_attention_mask": seeing[..., None, None]}
