"""One forward of the model for the rows in the slots."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from structdecode.backends.transformers.memory import out_of_memory
from structdecode.backends.transformers.slots.attention import Batch, Rows, Shared, SharedImageKV, attending
from structdecode.backends.transformers.slots.kv import Layers, Pool, Segment, SlotCache
from structdecode.backends.transformers.slots.prefixes import CrossLayers
from structdecode.backends.transformers.slots.recording import Recorder, Recording

log = logging.getLogger(__name__)

RECORD_AFTER = 2
"""Steps with the same rows after which a step is recorded: recording costs about as much as a few steps."""


@dataclass(frozen=True)
class ImageKV:
    """The pictures a row sees. ``mask`` is additive, [1, 1, 1, S], None where all of them is seen."""

    cross: CrossLayers
    mask: Tensor | None


@dataclass(frozen=True)
class KVHandle:
    """A text in the cache: where a row can continue.

    Attributes:
        segment: its beginning, shared. own: the tokens behind that, None where there are none.
        offset: the position of the token at place i is i + offset.
        logits: [V], behind its last token, where they are known.
    """

    segment: Segment
    own: Layers | None
    offset: int
    view: ImageKV | None = None
    logits: Tensor | None = None

    @property
    def own_length(self) -> int:
        return 0 if self.own is None else self.own[0][0].shape[2]

    @property
    def length(self) -> int:
        return self.segment.length + self.own_length

    def as_segment(self) -> KVHandle:
        """The same text, all of it shared."""
        return self if self.own is None else replace(self, segment=self.segment.extended(self.own), own=None)


@dataclass
class SlotRow:
    """A row in a slot.

    Attributes:
        private_prefix: its segment is copied into its slot, and one attention does for both.
        chunk_mask: which pictures' patches the next tokens see, additive [1, 1, T, S]; None: what the place says.
        chunk_no_image_mask: [T], which of the next tokens see no picture at all; None where all do.
        base: tokens of the segment that are in the slot. filled: all tokens in the slot.
    """

    place: KVHandle
    private_prefix: bool = False
    chunk_mask: Tensor | None = None
    chunk_no_image_mask: Tensor | None = None
    base: int = 0
    filled: int = 0

    @property
    def reserved_tokens(self) -> int:
        """Tokens that it is known to need room for."""
        return 0

    @property
    def position(self) -> int:
        """Of its next token, as the model counts."""
        return self.place.segment.length - self.base + self.filled + self.place.offset

    @property
    def picture_mask(self) -> Tensor | None:
        """What its next tokens see of its pictures."""
        if self.chunk_mask is not None or self.place.view is None:
            return self.chunk_mask
        return self.place.view.mask


O = TypeVar("O", bound=SlotRow)  # noqa: E741


class Slots(Generic[O]):
    """Rows in the first slots of a pool, without gaps."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.rows: list[O] = []
        self.changed = True

    def add(self, row: O) -> None:
        segment, slot = row.place.segment, len(self.rows)
        row.base = segment.length if row.private_prefix else 0
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
        length = row.place.length if row.private_prefix else row.place.own_length
        return self.pool.growth(len(self.rows) + 1, length + row.reserved_tokens)

    def remove(self, index: int) -> None:
        """The last row moves into the gap."""
        last = self.rows.pop()
        if index < len(self.rows):
            self.pool.move(len(self.rows), index, last.filled)
            self.rows[index] = last
        self.changed = True

    def grown(self, index: int, logits: Tensor | None, keep: int | None = None) -> KVHandle:
        """Where a row has got to, with ``keep`` of its new tokens (None: all)."""
        row = self.rows[index]
        end = row.filled if keep is None else min(row.filled, row.base + row.place.own_length + keep)
        own = self.pool.take(index, row.base, end) if end > row.base else None
        return replace(row.place, own=own, logits=logits)


@dataclass(frozen=True)
class _Arrangement:
    """What a step needs to know of the rows, the same as long as they are: their cache, who shares what, who sees."""

    cache: SlotCache
    batch: Batch
    blindness: dict[str, Tensor]


class Forward:
    """Runs tokens behind the rows in the slots.

    Args:
        run: the model's forward; returns its output, with logits [n, kept tokens, V].
        layers: how many layers the text model has; ``cross``: which of them are cross-attention.
        recorder: replays a step while the rows stay the same; None runs the model each time.

    Attributes:
        configs: of the text model that runs, where the attention function is named.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        layers: int,
        cross: frozenset[int],
        max_length: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.run, self.layers, self.cross, self.max_length = run, layers, cross, max_length
        self.recorder = recorder
        self.configs: Sequence[Any] = ()
        self._position = {layer: at for at, layer in enumerate(i for i in range(layers) if i not in cross)}
        self.forget()

    def forget(self) -> None:
        """Lets go of what was worked out for the rows of the last steps, and of their slots."""
        self._kept: tuple[Slots[Any], _Arrangement] | None = None
        self._recording: Recording | None = None
        self._steady = 0

    def room(self, row: SlotRow) -> int:
        """Tokens that the model's context has room for behind a row."""
        return self.max_length - (row.place.segment.length - row.base + row.filled)

    # ------------------------------------------------------------------ one token a row
    def step(self, slots: Slots[Any], tokens: Tensor) -> Tensor:
        """Logits behind one more token a row. [n] -> [n, V]"""
        slots.pool.ensure(len(slots.rows), max(row.filled for row in slots.rows) + 1)
        arranged = self._arrangement(slots)
        self._steady += 1
        recording = self._recorded(slots, arranged) if self._steady > RECORD_AFTER else None
        logits = self._eager(slots, tokens, arranged) if recording is None else recording(tokens)
        for row in slots.rows:
            row.filled += 1
        return logits

    def _recorded(self, slots: Slots[Any], arranged: _Arrangement) -> Recording | None:
        """The step of these rows, recorded when first asked for; None from the first time on that a model refuses."""
        if self.recorder is None or (self._recording is not None and self._recording.fits(slots.pool)):
            return self._recording
        try:
            self._recording = self._record(slots, arranged, self.recorder)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            log.warning("steps run unrecorded, this model cannot be: %s", str(error).split("\n")[0])
            self.recorder = self._recording = None
        return self._recording

    def _arrangement(self, slots: Slots[Any]) -> _Arrangement:
        """Worked out anew only when rows have come or gone."""
        if slots.changed or self._kept is None or self._kept[0] is not slots:
            self.forget()
            self._kept = slots, _Arrangement(*self._arranged(slots), self._blindness(slots.rows, 1, slots.pool.device))
            slots.changed = False
        return self._kept[1]

    def _eager(self, slots: Slots[Any], tokens: Tensor, arranged: _Arrangement) -> Tensor:
        filled = [row.filled for row in slots.rows]
        width = max(filled) + 1
        if min(filled) == max(filled):
            arranged.cache.set_targets(filled[0], len(filled), width)
            arranged.batch.own_mask = None
        else:
            places = torch.tensor(filled, device=tokens.device)[:, None]
            arranged.cache.set_targets(places, len(filled), width)
            arranged.batch.own_mask = self._own_mask(places, width, slots.pool.keys[0].dtype)
        positions = torch.tensor([row.position for row in slots.rows], device=tokens.device)[:, None]
        return self._run(tokens[:, None], positions, arranged)

    def _record(self, slots: Slots[Any], arranged: _Arrangement, recorder: Recorder) -> Recording:
        rows, pool = slots.rows, slots.pool

        def body(ids: Tensor, positions: Tensor, places: Tensor) -> Tensor:
            arranged.cache.set_targets(places, len(places), pool.width)
            arranged.batch.own_mask = self._own_mask(places, pool.width, pool.keys[0].dtype)
            return self._run(ids, positions, arranged)

        positions = torch.tensor([row.position for row in rows], device=pool.device)[:, None]
        places = torch.tensor([row.filled for row in rows], device=pool.device)[:, None]
        return Recording(recorder, body, positions, places, pool)

    def _run(self, ids: Tensor, positions: Tensor, arranged: _Arrangement) -> Tensor:
        """The model on one token a row. [n, 1] -> [n, V]"""
        with attending(self.configs):
            logits: Tensor = self.run(
                input_ids=ids, position_ids=positions, attention_mask=None, past_key_values=arranged.cache,
                use_cache=True, rows=arranged.batch, **arranged.blindness,
            ).logits  # fmt: skip
        return logits[:, -1]

    # ------------------------------------------------------------------ many tokens a row
    def __call__(
        self, slots: Slots[Any], tokens: Sequence[Sequence[int]], every: bool = False, hidden: bool = False
    ) -> tuple[Tensor, Sequence[Tensor] | None]:
        """Logits behind each row's last token, [n, 1, V], or behind every token (right-padded), [n, T, V].

        And the layers' ``hidden`` states, [n, T, H] each, where they are wanted.
        """
        rows: list[SlotRow] = slots.rows
        lengths = [len(row_tokens) for row_tokens in tokens]
        longest = max(lengths)
        filled = [row.filled for row in rows]
        width = max(filled) + longest
        slots.pool.ensure(len(rows), width)
        device = slots.pool.keys[0].device
        ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in tokens], device=device)
        steps = torch.arange(longest, device=device)
        places = torch.tensor(filled, device=device)[:, None] + steps  # [n, T]
        begins = torch.tensor([row.position for row in rows], device=device)
        cache, batch = self._arranged(slots)
        cache.set_targets(filled[0] if min(filled) == max(filled) else places, len(rows), width)
        batch.own_mask = self._own_mask(places, width, slots.pool.keys[0].dtype)
        last = sorted({length - 1 for length in lengths})
        with attending(self.configs):
            output = self.run(
                input_ids=ids, position_ids=begins[:, None] + steps, attention_mask=None,
                past_key_values=cache, use_cache=True, rows=batch,
                logits_to_keep=0 if every else torch.tensor(last, device=device),
                **({"output_hidden_states": True} if hidden else {}), **self._blindness(rows, longest, device),
            )  # fmt: skip
        logits, states = output.logits, output.hidden_states if hidden else None
        for row, length in zip(rows, lengths, strict=True):
            row.filled += length
        if every:
            return logits, states
        if logits.shape[1] != len(last):  # a forward that does not know `logits_to_keep` gives all
            last = list(range(longest))
        if len(last) == 1:
            return logits, states
        at = torch.tensor([last.index(length - 1) for length in lengths], device=device)
        return logits[torch.arange(len(rows), device=device), at][:, None], states

    @staticmethod
    def _own_mask(places: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        unseen = torch.arange(width, device=places.device) > places[..., None]  # [n, T, width]
        return torch.zeros(unseen.shape, dtype=dtype, device=places.device).masked_fill_(unseen, -torch.inf)[:, None]

    def _arranged(self, slots: Slots[Any]) -> tuple[SlotCache, Batch]:
        """The cache, and who shares what."""
        rows: list[SlotRow] = slots.rows
        device = slots.pool.device
        by_segment: dict[int, list[int]] = defaultdict(list)
        by_view: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            if not row.base and row.place.segment.length:
                by_segment[id(row.place.segment)].append(index)
            if row.place.view is not None:
                by_view[id(row.place.view.cross), id(row.picture_mask)].append(index)

        def numbers(indices: list[int]) -> Rows:
            if len(indices) == len(rows):
                return None
            begin, end = indices[0], indices[-1] + 1
            return slice(begin, end) if end - begin == len(indices) else torch.tensor(indices, device=device)

        shared = [Shared(rows[group[0]].place.segment, numbers(group)) for group in by_segment.values()]
        seen = []
        for group in by_view.values():
            first = rows[group[0]]
            assert first.place.view is not None
            seen.append(SharedImageKV(first.place.view.cross, numbers(group), first.picture_mask))
        cache = SlotCache(slots.pool, self.layers, self.cross, pictured=bool(seen))
        return cache, Batch(None, shared, seen, self.cross, self._position)

    def _blindness(self, rows: Sequence[SlotRow], tokens: int, device: torch.device) -> dict[str, Tensor]:
        """Which tokens see no picture, where some do and some do not: the model masks their feed-forward then."""
        if not self.cross or all(row.place.view is None for row in rows):
            return {}
        if all(row.place.view is not None and row.chunk_no_image_mask is None for row in rows):
            return {}
        seeing = torch.ones(len(rows), tokens, dtype=torch.long, device=device)
        for index, row in enumerate(rows):
            if row.place.view is None:
                seeing[index] = 0
            elif row.chunk_no_image_mask is not None:
                seeing[index, : len(row.chunk_no_image_mask)] = (~row.chunk_no_image_mask).long()
        return {"cross_attention_mask": seeing[..., None, None]}
