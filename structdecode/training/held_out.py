"""The held-out loss: the sum of the losses of all places over how many there are, whatever the batches and processes.

transformers' Trainer gives the mean of its batches' means, and accelerate repeats examples where processes would be
left without. Here batches are made so that each example is in one of them, and sums are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from structdecode.training.buckets import counts_pictures, picture_groups


class HeldOutTrainer(Trainer):  # type: ignore[misc]
    """A trainer that measures over all of its held-out data, where these know ``lengths`` and ``pictures`` ([N] each).

    Attributes:
        by_count: whether examples of different numbers of pictures may not share a batch: see `counts_pictures`.
    """

    def __init__(self, *, model: Any, **options: Any) -> None:
        self.by_count = counts_pictures(model)
        self._counts: list[bool] = []
        self._sums = torch.zeros(2, dtype=torch.float64)  # of losses, of places
        super().__init__(model=model, **options)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches of this process. Every process has as many, since a model in parts is run by all together."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if not hasattr(dataset, "pictures"):
            return super().get_eval_dataloader(eval_dataset)
        batches, self._counts = held_out_batches(
            dataset.lengths, picture_groups(dataset, self.by_count), self.args.eval_batch_size,
            processes=self.args.world_size, process=self.args.process_index,
        )  # fmt: skip
        workers = self.args.dataloader_num_workers
        return DataLoader(
            dataset, batch_sampler=batches, collate_fn=self.data_collator, num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._done = 0
        # `gather_for_metrics` cuts what it takes for repeated; it looks at the loader of the training data for that
        self.gather_function = self.accelerator.gather
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **options)
        losses, places = self.accelerator.reduce(self._sums.to(self.args.device), "sum").tolist()
        if places:
            found.metrics[f"{metric_key_prefix}_loss"] = losses / places
        return found

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **options)
        places = int(self._places(inputs["labels"]))
        if places and self._counts[self._done]:
            self._sums += torch.tensor([loss.item() * places, places], dtype=torch.float64)
        self._done += 1
        return loss, logits, labels

    def _places(self, labels: Tensor) -> Tensor:
        """How many places of a batch's ``labels`` [B, L] its mean loss is over."""
        raise NotImplementedError


def held_out_batches(
    lengths: Sequence[int] | NDArray[np.int64],
    groups: NDArray[Any] | None,
    batch_size: int,
    *,
    processes: int = 1,
    process: int = 0,
) -> tuple[list[list[int]], list[bool]]:
    """One process's batches, of one group and about one length each, and which of them count.

    Every example is in one batch that counts, of one process. Where a group's last examples do not go round, a process
    without any has one of the others' to run along with them, and that does not count.

    Args:
        lengths, groups: [N] of the examples. batch_size: of one process.
    """
    lengths = np.asarray(lengths)
    groups = groups if groups is not None else np.zeros(len(lengths), dtype=np.int64)
    batches, counts = [], []
    for group in np.unique(groups):
        members = np.nonzero(groups == group)[0]
        members = members[np.argsort(-lengths[members], kind="stable")]
        for start in range(0, len(members), batch_size * processes):
            together = members[start : start + batch_size * processes]
            mine = together[process::processes]
            batches.append((mine if len(mine) else together[:1]).tolist())
            counts.append(len(mine) > 0)
    return batches, counts
