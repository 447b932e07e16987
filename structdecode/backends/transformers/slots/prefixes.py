"""A bounded cache of prompts: what a later prompt has in common with an earlier one is not computed again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from structdecode.backends.transformers.slots.kv import Segment

CrossLayers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values of a prompt's pictures, [1, H, S, D], by the number of the cross-attention layer."""


@dataclass(frozen=True)
class PrefixEntry:
    """A prompt in the cache.

    Attributes:
        ids: its tokens. images: digests of its pictures, in order.
        text_from: the first place behind all picture tokens; a shorter part of it does not hold the pictures.
        segment: its keys and values. offset: how far a token's position is from its place (mRoPE; else 0).
        cross: the pictures' keys and values where the model has cross-attention.
        logits: [V], behind its last token.
    """

    ids: tuple[int, ...]
    images: tuple[str, ...]
    text_from: int
    segment: Segment
    offset: int
    cross: CrossLayers
    logits: Tensor

    @property
    def nbytes(self) -> int:
        return self.segment.nbytes + sum(k.nbytes + v.nbytes for k, v in self.cross.values())


class PrefixCache:
    """Least recently used prompts go first when ``limit`` bytes are full. Belongs to one thread.

    Attributes:
        worth: how many tokens more a prompt that is being computed has to bring for another one to wait for it.
    """

    def __init__(self, limit: int, worth: int = 16) -> None:
        self.limit, self.worth = limit, worth
        self.hits = self.hit_tokens = self._epoch = 0
        self._known: OrderedDict[tuple[tuple[int, ...], tuple[str, ...]], PrefixEntry] = OrderedDict()
        self._computing: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def longest(self, ids: tuple[int, ...], images: tuple[str, ...]) -> tuple[PrefixEntry | None, int]:
        """The prompt with the same pictures that shares most tokens, and how many can be taken over."""
        best, most = None, 0
        for known in self._known.values():
            if known.images == images:
                common = common_length(known.ids, ids)
                if common > most and common >= known.text_from:
                    best, most = known, common
        if best is not None:
            self._known.move_to_end((best.ids, best.images))
        return best, most

    def same_pictures(self, images: tuple[str, ...]) -> PrefixEntry | None:
        """A prompt with these pictures, for a model that keeps them apart from the text."""
        return next((known for known in self._known.values() if known.images == images and known.cross), None)

    def add(self, known: PrefixEntry) -> None:
        """Takes a prompt in, and lets others go. One that is larger than the whole cache is not kept."""
        self._known[known.ids, known.images] = known
        self._known.move_to_end((known.ids, known.images))
        while self._known and sum(k.nbytes for k in self._known.values()) > self.limit:
            self._known.popitem(last=False)

    def renew(self, epoch: int) -> None:
        """Forgets what was computed in another epoch of the model."""
        if epoch != self._epoch:
            self.clear()
            self._epoch = epoch

    def clear(self) -> bool:
        """Forgets all prompts; whether there were any."""
        had = bool(self._known)
        self._known.clear()
        return had

    def reset(self) -> None:
        """As it was made: nothing known, nothing counted."""
        self.clear()
        self.hits = self.hit_tokens = 0

    @contextmanager
    def computing(self, ids: tuple[int, ...], images: tuple[str, ...]) -> Iterator[None]:
        """While this is open, prompts that share tokens with this one had better wait for it."""
        self._computing.append((ids, images))
        try:
            yield
        finally:
            self._computing.remove((ids, images))

    def worth_waiting(self, ids: tuple[int, ...], images: tuple[str, ...], have: int) -> bool:
        """Whether a prompt that is being computed will bring more than is there now (or the same pictures)."""
        return any(
            theirs == images and (bool(images and not have) or common_length(other, ids) >= have + self.worth)
            for other, theirs in self._computing
        )


def common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two texts have in common from the start."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return int(np.argmax(np.asarray(one[:length]) != np.asarray(other[:length])))


def cross_mask(mask: Tensor, patches: int, dtype: torch.dtype) -> Tensor | None:
    """A processor's mask of which tiles each token sees, spread over the tiles' patches; None where all is seen.

    As in transformers' `modeling_mllama.py`, a token that sees no tile at all is not masked here (its feed-forward
    is, by the model). [T, images, tiles] -> [1, 1, T, images * tiles * patches]
    """
    seen = mask.flatten(1).bool()  # [T, images * tiles]
    seen = seen | ~seen.any(-1, keepdim=True)
    if bool(seen.all()):
        return None
    additive = torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, torch.finfo(dtype).min)
    return additive.repeat_interleave(patches, dim=1)[None, None]
