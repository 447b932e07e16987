"""Several verifiers as one."""

from __future__ import annotations

import asyncio
import math
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

    So is one that fails: the others still count. `Score.details` holds each member's part, None where it is left
    out, and ``left out`` says why.

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
        if self.normalise not in ("none", "z", "minmax"):
            raise ConfigError(f"ensemble: normalise must be none, z or minmax, not {self.normalise!r}")
        unknown = set(self.weights) - set(self.members)
        if unknown:
            raise ConfigError(f"ensemble: weights for {', '.join(sorted(unknown))}, which are not members")
        if not all(weight > 0 and math.isfinite(weight) for weight in self.weights.values()):
            raise ConfigError("ensemble: weights must be above 0")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        asked = (member.score(prompt, candidates, model) for member in self.members.values())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        rows = {n: _checked(answer, len(candidates)) for n, answer in zip(self.members, answers, strict=True)}
        scaled = {name: self._scaled(row) for name, row in rows.items()}
        return [
            self._mean(
                {name: row[i] for name, row in scaled.items()},
                {name: row[i].reason for name, row in rows.items() if not row[i].scored},
            )
            for i in range(len(candidates))
        ]

    def _scaled(self, scores: Sequence[Score]) -> list[float | None]:
        values = np.array([s.value for s in scores if s.value is not None], dtype=float)
        if self.normalise == "none" or not len(values):
            return [s.value for s in scores]
        shift = values.mean() if self.normalise == "z" else values.min()
        spread = values.std() if self.normalise == "z" else values.max() - values.min()
        return [None if s.value is None else float((s.value - shift) / (spread or 1.0)) for s in scores]

    def _mean(self, parts: Mapping[str, float | None], left_out: Mapping[str, str]) -> Score:
        given = {name: value for name, value in parts.items() if value is not None}
        if not given:
            return Score(None, "no member gave a score", {**parts, "left out": dict(left_out)})
        weights = [self.weights.get(name, 1.0) for name in given]
        details = {**parts, "left out": dict(left_out)} if left_out else dict(parts)
        reason = f"without {', '.join(left_out)}" if left_out else ""
        return Score(float(np.average(list(given.values()), weights=weights)), reason, details)


def _checked(answer: list[Score] | BaseException, count: int) -> list[Score]:
    """A member's scores; unscored ones where it failed, as the engine does it for a verifier of its own."""
    if isinstance(answer, BaseException):
        if not isinstance(answer, Exception):
            raise answer
        return [Score.unscored(f"failed: {type(answer).__name__}: {answer}")] * count
    if len(answer) != count:
        return [Score.unscored(f"failed: {count} candidates, but {len(answer)} scores")] * count
    return [
        s if s.value is None or math.isfinite(s.value) else Score.unscored(f"score {s.value} is not finite")
        for s in answer
    ]
