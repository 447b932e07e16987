"""What a request can ask the scheduler for: a call of the model, tokens to feed, rows to write."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdecode.backends.transformers.sequences import TokenSequence
from structdecode.backends.transformers.slots.forward import KVHandle, SlotRow
from structdecode.core.budget import Usage
from structdecode.core.protocols import UNMETERED, Account

T = TypeVar("T")

CHUNK = 512
"""Prompt tokens of one row that are computed between two decoding steps."""


@dataclass
class ModelCall:
    """A piece of model work of its own (a first prompt with its pictures)."""

    work: Callable[[], Any]
    result: Any = None
    done: bool = False


@dataclass
class PrefillRow(SlotRow):
    """Tokens to run behind a place.

    Attributes:
        every: asks for the logits after each of them, not the last alone.
        mask: which pictures' patches each token sees, additive [1, 1, T, S]; None: what the place says.
        no_image_mask: [T], tokens that see no picture at all; None where all do.
        layers: whose states at the last token are wanted. hidden: these, [layers, H].
    """

    tokens: Sequence[int] = ()
    every: bool = False
    mask: Tensor | None = None
    no_image_mask: Tensor | None = None
    layers: Sequence[int] = ()
    hidden: NDArray[np.float32] | None = None
    fed: int = 0
    logits: list[Tensor] = field(default_factory=list)  # [T, V] each
    done: bool = False

    def restart(self) -> None:
        self.fed, self.logits = 0, []

    @property
    def reserved_tokens(self) -> int:
        return len(self.tokens)

    @property
    def chunk(self) -> int:
        """Tokens that come next."""
        return min(CHUNK, len(self.tokens) - self.fed)

    def like(self, other: PrefillRow) -> bool:
        """Whether the two are about equally long: neither more than half of its tokens (and a few) padding."""
        short, long = sorted((self.chunk, other.chunk))
        return long <= 2 * short + 8

    def set_chunk(self, longest: int) -> None:
        """Cuts out what the next chunk of up to ``longest`` tokens sees, right-padded."""
        chunk = slice(self.fed, self.fed + longest)
        if self.no_image_mask is not None:
            self.chunk_no_image_mask = self.no_image_mask[chunk]
        if self.mask is not None:
            part = self.mask[:, :, chunk]
            self.chunk_mask = torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[2]))


@dataclass
class DecodeRow(SlotRow):
    """A row to decode."""

    sequence: TokenSequence = None  # type: ignore[assignment]
    account: Account = UNMETERED
    result: KVHandle | None = None
    logits: Tensor | None = None  # [V]
    charged: int = 0

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.sequence.row.seed)
        self.logits = self.place.logits

    def restart(self) -> None:
        self.sequence.restart()
        self.__post_init__()

    def charge(self) -> None:
        """For all that was drawn, once: when the row leaves its batch, for whatever reason."""
        drawn, self.charged = self.sequence.sampled - self.charged, self.sequence.sampled
        if drawn:
            self.account.charge(Usage(generated_tokens=drawn))

    @property
    def reserved_tokens(self) -> int:
        return 1

    @property
    def tokens_left(self) -> int:
        return self.sequence.row.max_tokens - self.sequence.sampled

    @property
    def done(self) -> bool:
        return self.result is not None


ModelWork = Sequence[ModelCall] | Sequence[PrefillRow] | Sequence[DecodeRow]
Steps = Generator[ModelWork, None, T]
"""A request: yields what it needs, is sent on when all of it is done, returns its answer."""
