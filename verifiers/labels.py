"""Reads a closed set of labels: how probable each is, were one of them the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from structdecode.core.protocols import Model
from structdecode.core.types import Prompt


@dataclass(frozen=True)
class Reading:
    """What one forward pass says of a question's labels.

    Attributes:
        probabilities: of each label among the labels (softmax over their log-probabilities); the sum is 1.
        mass: the labels' total probability among all answers. Where it is low the model wanted to say something else.
    """

    probabilities: tuple[float, ...]
    mass: float


async def read_labels(model: Model, prompt: Prompt, labels: Sequence[str]) -> Reading:
    """One question, no generation. A label of several tokens has the sum of their log-probabilities."""
    found = [math.fsum(tokens) for tokens in await model.log_probs(prompt, labels)]
    top = max(found)
    weights = [math.exp(value - top) for value in found]
    return Reading(tuple(weight / math.fsum(weights) for weight in weights), math.fsum(map(math.exp, found)))
