"""On a CPU: linear layers multiply by a copy of their weights that is laid out for few rows (oneDNN's own format).

A decoding step multiplies a handful of rows with every weight. From the layout in which weights are kept that runs
at a fraction of the memory's bandwidth; from oneDNN's blocked one (`torch.ops.mkldnn._linear_pointwise`, as
torch.compile uses it after freezing) 1 to 32 rows took 0.32 to 0.45 of the time. The price is the copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from structdecode.backends.transformers.memory import free_memory

log = logging.getLogger(__name__)

ROWS = 8
"""The number of rows that the layout is chosen for."""


def pack_linears(twin: nn.Module) -> int:
    """Lets a twin's linear layers multiply by packed copies of their weights; how many do.

    Layers with a forward of their own (somebody's hook) stay as they are, and so do all where memory is short.
    """
    layers = [m for m in twin.modules() if type(m) is nn.Linear and "forward" not in vars(m) and _packable(m)]
    needed, free = sum(m.weight.nbytes for m in layers), free_memory(torch.device("cpu"))
    if layers and free is not None and needed > free // 2:
        log.info("weights stay as they are: %d MB for packed ones, %d MB free", needed >> 20, free >> 20)
        return 0
    for layer in layers:
        with torch.inference_mode():
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        setattr(layer, "forward", _forward(layer, packed))  # noqa: B010
    return len(layers)


def _packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _forward(layer: nn.Linear, packed: Tensor) -> Callable[[Tensor], Tensor]:
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def forward(input: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled() or input.dtype != torch.float32:
            return nn.functional.linear(input, layer.weight, layer.bias)  # autocast
        return multiply(input, packed, layer.bias, "none", [], "")  # type: ignore[no-any-return]

    return forward
