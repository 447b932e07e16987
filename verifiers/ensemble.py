"""Several verifiers as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from structdecode.errors import ConfigError
from structdecode.protocols import Model, Verifier
from structdecode.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of its members' scores; a member without a score for a candidate is left out for it.

    Attributes:
        members: verifiers by name. weights: by the same names, default 1.
        normalise: ``z`` and ``minmax`` bring each member's scores of one round to a common scale first.
    """

    members: Mapping[str, Verifier]
    weights: Mapping[str, float] = field(default_factory=dict)
    normalise: Literal["none", "z", "minmax"] = "z"

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("ensemble has no members")
        unknown = set(self.weights) - set(self.members)
        if unknown:
            raise ConfigError(f"ensemble: weights for {', '.join(sorted(unknown))}, which are not members")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ConfigError("ensemble: weights must be above 0")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        rows = await asyncio.gather(*(m.score(prompt, candidates, model) for m in self.members.values()))
        scaled = {name: self._scaled(row) for name, row in zip(self.members, rows, strict=True)}
        return [self._mean({name: row[i] for name, row in scaled.items()}) for i in range(len(candidates))]

    def _scaled(self, scores: Sequence[Score]) -> list[float | None]:
        values = np.array([s.value for s in scores if s.value is not None], dtype=float)
        if self.normalise == "none" or not len(values):
            return [s.value for s in scores]
        shift = values.mean() if self.normalise == "z" else values.min()
        spread = values.std() if self.normalise == "z" else values.max() - values.min()
        return [None if s.value is None else float((s.value - shift) / (spread or 1.0)) for s in scores]

    def _mean(self, parts: Mapping[str, float | None]) -> Score:
        given = {name: value for name, value in parts.items() if value is not None}
        if not given:
            return Score.unscored("no member gave a score")
        weights = [self.weights.get(name, 1.0) for name in given]
        return Score(float(np.average(list(given.values()), weights=weights)), details=dict(parts))
