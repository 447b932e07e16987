"""Hidden states at the ends of spans, for probes: only where a request names layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.types import Span

Hidden = NDArray[np.float32] | None
"""[layers, H]; None where there is none."""


def check_layers(model: Any, layers: Sequence[int]) -> None:
    """Raises `ConfigError` unless each is one of transformers' ``hidden_states``: 0 is the embeddings, -1 the last."""
    count = model.config.get_text_config().num_hidden_layers
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not -count - 1 <= layer <= count:
            raise ConfigError(
                f"hidden_layers: {layer!r} is none of the model's: 0 (embeddings) to {count} (last), or {-count - 1} to -1"
            )


def with_states(span: Span, states: Hidden, layers: Sequence[int]) -> Span:
    """A span with the states at its last token, if it has any."""
    return replace(span, hidden_states=states, hidden_layers=() if states is None else tuple(layers))


def at_end(states: Sequence[Tensor] | None, layers: Sequence[int], row: int, at: int) -> NDArray[np.float32]:
    """Of one row at one token, in float32 on the CPU. [layers, H]

    Args:
        states: the model's ``hidden_states``, [B, T, H] each.

    Raises:
        ModelError: the model gives none.
    """
    if not states:
        raise ModelError("this model gives no hidden states (output_hidden_states): ask for no hidden_layers")
    found: NDArray[np.float32] = torch.stack([states[layer][row, at] for layer in layers]).float().cpu().numpy()
    return found
