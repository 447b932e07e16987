"""A decoding step recorded once and replayed, so that no Python runs between the model's kernels.

A step of a few rows on a GPU is over sooner than Python can launch its kernels. While the rows in the slots stay the
same, one step differs from the last in three small tensors alone: the tokens, their positions, and their places in
the slots. They are kept at fixed addresses, the forward over them is recorded as a CUDA graph
(https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs), and a step is one launch. The pool, the shared
segments and the pictures are read where they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from structdecode.backends.transformers.slots.kv import Pool

Body = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One step: ids, positions, places, each [n, 1] -> logits [n, V]. Doing it twice does what doing it once does."""


class Recorder(Protocol):
    """Records what a body does on the device; what comes back does it again on the same three tensors."""

    def __call__(self, body: Body, ids: Tensor, positions: Tensor, places: Tensor) -> Callable[[], Tensor]: ...


class CudaGraphs:
    """The recorder for CUDA. All graphs share one memory pool, since only the newest is ever replayed."""

    def __init__(self) -> None:
        self._memory: Any = None

    def __call__(self, body: Body, ids: Tensor, positions: Tensor, places: Tensor) -> Callable[[], Tensor]:
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries set themselves up in a first call, which cannot be recorded
            body(ids, positions, places)
        torch.cuda.current_stream().wait_stream(beside)
        self._memory = self._memory or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            logits = body(ids, positions, places)

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay


class Recording:
    """A step for fixed rows in a pool of fixed size.

    Args:
        positions, places: [n, 1], of the rows' next tokens.
    """

    def __init__(self, recorder: Recorder, body: Body, positions: Tensor, places: Tensor, pool: Pool) -> None:
        self._ids, self._positions, self._places = torch.zeros_like(positions), positions, places
        self._size = pool.rows, pool.width
        self._replay = recorder(body, self._ids, self._positions, self._places)

    def fits(self, pool: Pool) -> bool:
        """Whether the pool still lies where it lay."""
        return self._size == (pool.rows, pool.width)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The rows' next step; they are one token further then. [n] -> [n, V]"""
        self._ids.copy_(tokens[:, None])
        logits = self._replay().clone()  # the next replay writes over them
        self._positions += 1
        self._places += 1
        return logits
