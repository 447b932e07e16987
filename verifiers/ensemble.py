"""Several verifiers as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model, Verifier
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of its members' scores; a member without a score for a candidate is left out for it.

    A member whose scores of a round differ by no more than noise (`Score.resolution`) has no say in it: bringing noise
    to a common scale would make it decide.

    Attributes:
        members: verifiers by name. weights: by the same names, default 1.
        normalise: ``z`` and ``minmax`` bring each member's scores of one round to a common scale first.
    """

    members: Mapping[str, Verifier]
    weights: Mapping[str, float] = field(default_factory=dict)
    normalise: Literal["none", "z", "minmax"] = "z"

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.members:
            raise ConfigError("ensemble has no members")
        unknown = set(self.weights) - set(self.members)
        if unknown:
            raise ConfigError(f"ensemble: weights for {', '.join(sorted(unknown))}, which are not members")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ConfigError("ensemble: weights must be above 0")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        rows = await asyncio.gather(*(m.score(prompt, candidates, model) for m in self.members.values()))
        scaled = {name: self._scaled(row, model.resolution) for name, row in zip(self.members, rows, strict=True)}
        return [self._mean({name: row[i] for name, row in scaled.items()}) for i in range(len(candidates))]

    def _scaled(self, scores: Sequence[Score], noise: float) -> list[Score]:
        """On the common scale, each with its resolution there. ``noise``: where a member does not say its own."""
        told = [replace(s, resolution=noise if s.resolution is None else s.resolution) for s in scores]
        given = [s for s in told if s.value is not None]
        if self.normalise == "none" or not given:
            return told
        values = np.array([s.value for s in given], dtype=float)
        low, high = given[int(values.argmin())], given[int(values.argmax())]
        shift = values.mean() if self.normalise == "z" else values.min()
        spread = 1.0 if low.ties(high) else float(values.std() if self.normalise == "z" else np.ptp(values))
        return [s if s.value is None else _rescaled(s, float(shift), spread, low.ties(high)) for s in told]

    def _mean(self, parts: Mapping[str, Score]) -> Score:
        given = {name: score for name, score in parts.items() if score.value is not None}
        if not given:
            return Score.unscored("no member gave a score")
        weights = [self.weights.get(name, 1.0) for name in given]

        def mean(values: Iterable[float | None]) -> float:
            return float(np.average(np.array(list(values), dtype=float), weights=weights))

        return Score(
            mean(s.value for s in given.values()), details={name: score.value for name, score in parts.items()},
            resolution=mean(s.resolution for s in given.values()),
        )  # fmt: skip


def _rescaled(score: Score, shift: float, spread: float, flat: bool) -> Score:
    """``flat``: all of the round are tied, and sit at the middle of the scale."""
    assert score.value is not None and score.resolution is not None
    noise = score.resolution * max(1.0, abs(score.value)) / spread
    return replace(score, value=0.0 if flat else (score.value - shift) / spread, resolution=0.0 if flat else noise)
