"""On a CPU: linear layers multiply by a copy of their weights that is laid out for few rows (oneDNN's own format).

A decoding step multiplies a handful of rows with every weight. From the layout in which weights are kept that runs
at a fraction of the memory's bandwidth; from oneDNN's blocked one (`torch.ops.mkldnn._linear_pointwise`, as
torch.compile uses it after freezing) 1 to 32 rows took 0.32 to 0.45 of the time. The price is the copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from structdecode.backends.transformers.memory import free_memory

log = logging.getLogger(__name__)

ROWS = 8
"""The number of rows that the layout is chosen for."""


class PackedLinears:
    """The packed weights of a model's linear layers; made when first used, and again where a weight has changed."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if type(m) is nn.Linear and _packable(m)]
        self._packed: dict[int, tuple[tuple[int, int], Tensor]] = {}
        if not self._layers:
            return
        needed, free = sum(m.weight.nbytes for m in self._layers), free_memory(torch.device("cpu"))
        if free is not None and needed > free // 2:
            log.info("weights stay as they are: %d MB for packed ones, %d MB free", needed >> 20, free >> 20)
            self._layers = []

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While this is open the layers multiply by their packed weights in inference mode; then as before."""
        swapped = [layer for layer in self._layers if "forward" not in layer.__dict__]  # else somebody else's hook
        for layer in swapped:
            setattr(layer, "forward", _forward(layer, self._of(layer)))  # noqa: B010
        try:
            yield
        finally:
            for layer in swapped:
                del layer.forward

    def _of(self, layer: nn.Linear) -> Tensor:
        weight = layer.weight
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        known = self._packed.get(id(layer))
        if known is None or known[0] != state:
            with torch.inference_mode():
                known = state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            self._packed[id(layer)] = known
        return known[1]


def _packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _forward(layer: nn.Linear, packed: Tensor) -> Callable[[Tensor], Tensor]:
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def forward(input: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled() or input.dtype != torch.float32:
            return nn.functional.linear(input, layer.weight, layer.bias)  # another thread's, or autocast
        return multiply(input, packed, layer.bias, "none", [], "")  # type: ignore[no-any-return]

    return forward
