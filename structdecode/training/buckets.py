"""Batches of about one length, so that little is padding: seeded, and resumable from a count of examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from structdecode.core.errors import ConfigError
from structdecode.core.seeds import derive


class Measured(Protocol):
    """A data set that knows its examples' lengths [N] and how many pictures each has [N]."""

    lengths: NDArray[np.int64]
    pictures: NDArray[np.int64]


def bucket_sampler(dataset: Measured, batch_size: int, seed: int, *, by_count: bool = False) -> BucketSampler:
    """With examples apart that may not share a batch: see `picture_groups`."""
    return BucketSampler(dataset.lengths, batch_size, seed=seed, groups=picture_groups(dataset, by_count))


def picture_groups(dataset: Measured, by_count: bool) -> NDArray[np.int64] | None:
    """[N] the group of each example, None where all are of one: with and without a picture, or by how many."""
    pictures = np.asarray(dataset.pictures)
    groups = pictures if by_count else (pictures > 0).astype(np.int64)
    return groups if len(np.unique(groups)) > 1 else None


def counts_pictures(model: Any) -> bool:
    """Whether a model's rows see the padding of others with more pictures.

    So it is where text attends to pictures beside it (Mllama): transformers (5.23) masks what follows the
    cross-attention, not its output, so places that no picture precedes attend to all slots of the batch alike.
    """
    forwards = (inspect.signature(module.forward).parameters for module in model.modules())
    return any("cross_attention_mask" in parameters for parameters in forwards)


class BucketSampler(Sampler[int]):
    """Indices in an order in which each run of ``batch_size`` has about one length.

    Each epoch is shuffled and cut into pools of ``batch_size * pool`` examples; a pool is sorted by length and cut into
    batches; the batches are shuffled, all but the one with the longest example, which comes first: what does not fit
    into memory shows at once. The order follows from (seed, epoch) alone, so a state is an epoch and a position in it.

    Args:
        lengths: [N] of the examples, in any unit.
        batch_size: of all processes together, so that those that wait for each other have batches of one length.
        pool: a large one pads less and shuffles less.
        groups: [N] of the examples; a batch never mixes two groups, and where a group does not fill its last batch some
            of its examples come a second time in the epoch. See `picture_groups`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        *,
        seed: int = 0,
        pool: int = 50,
        groups: Sequence[int] | NDArray[Any] | None = None,
    ) -> None:
        if len(lengths) == 0:
            raise ConfigError("there are no examples to sample from")
        if groups is not None and len(groups) != len(lengths):
            raise ConfigError(f"there are {len(lengths)} lengths and {len(groups)} groups: give one of each an example")
        for name, value in (("batch_size", batch_size), ("pool", pool)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.pool = batch_size, seed, pool
        self.groups = np.asarray(groups) if groups is not None else np.zeros(len(lengths), dtype=np.int64)
        self.filled = groups is not None
        self.epoch = self.position = 0
        self._drawn = len(self.order(0))

    def __len__(self) -> int:
        """Of an epoch."""
        return self._drawn

    def order(self, epoch: int) -> NDArray[np.int64]:
        """[len(self)] the indices of an epoch."""
        rng = np.random.default_rng(derive(self.seed, "buckets", epoch))
        shuffled = rng.permutation(len(self.lengths))
        batches: list[NDArray[np.int64]] = []
        for group in np.unique(self.groups):
            batches += self._batches(shuffled[self.groups[shuffled] == group])
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]  # one at most: it has to be the last
        places = rng.permutation(len(whole)).tolist()
        if whole:
            longest = max(places, key=lambda place: int(self.lengths[whole[place]].max()))
            places.remove(longest)
            places.insert(0, longest)
        return np.concatenate([whole[place] for place in places] + rest)

    def _batches(self, members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Of shuffled examples, sorted by length a pool at a time."""
        if self.filled:
            members = np.concatenate([members, np.resize(members, -len(members) % self.batch_size)])
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(members), self.batch_size * self.pool):
            pool = members[start : start + self.batch_size * self.pool]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        return batches

    def __iter__(self) -> Iterator[int]:
        """The rest of the epoch; then the next epoch is due."""
        order = self.order(self.epoch)
        while self.position < len(order):
            self.position += 1
            yield int(order[self.position - 1])
        self.epoch, self.position = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """As accelerate and `Trainer` call it before each epoch; a position in the same epoch is kept."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def seek(self, seen: int) -> None:
        """Goes to where ``seen`` examples have been used since the start, over all epochs.

        A `DataLoader` with workers draws ahead of what is used: count what was trained on, and come here with it.
        """
        if seen < 0:
            raise ConfigError(f"seen must be 0 or more, not {seen}")
        self.epoch, self.position = divmod(seen, len(self))

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position of what was drawn so far, and what the order depends on."""
        return {
            "epoch": self.epoch, "position": self.position, "seed": self.seed, "batch_size": self.batch_size,
            "pool": self.pool, "examples": len(self.lengths), "drawn": len(self),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `ConfigError` where the state is of another order: resuming would repeat and skip examples."""
        for name, mine in self.state_dict().items():
            if name not in ("epoch", "position") and state[name] != mine:
                raise ConfigError(f"the sampler's {name} is {mine}, the saved one's {state[name]}: give the same")
        self.epoch, self.position = state["epoch"], state["position"]
