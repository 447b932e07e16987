"""A recorder for the CPU: what it replays is the aten operations that were run, and nothing else.

Like a CUDA graph it has every Python value baked in, reads and writes the tensors where they lay, and refuses to be
recorded where a value is fetched from a tensor.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.slots.recording import Body
from tests.backends.transformers import tiny


class Traced:
    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, body: Body, ids: Tensor, positions: Tensor, places: Tensor) -> Callable[[], Tensor]:
        graph = make_fx(body)(ids, positions, places)

        def replay() -> Tensor:
            self.replays += 1
            return graph(ids, positions, places)  # type: ignore[no-any-return]

        return replay


def recorded(name: str, sync_interval: int = 4) -> TransformersBackend:
    """A tiny model whose steps are recorded and whose tokens are looked at in blocks, as on a GPU."""
    backend = TransformersBackend(*tiny.build(name), name=name)
    backend.scheduler.forward.recorder = Traced()
    backend.scheduler.sync_interval = sync_interval
    return backend
