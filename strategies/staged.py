"""One path through the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from structdecode.core.protocols import Decoder, StrategyTraits
from structdecode.core.types import Candidate, Ranked, Schema, Score
from structdecode.strategies.sampling import SamplingOverrides


async def walk(schema: Schema, decoder: Decoder, overrides: SamplingOverrides, n: int) -> list[Candidate]:
    """``n`` independent answers, stage by stage in one batch."""
    candidates = [decoder.root]
    for stage in schema.stages:
        width = n if candidates == [decoder.root] else 1
        candidates = await decoder.extend(candidates, stage, n=width, sampling=overrides.sampling(stage))
    return candidates


@dataclass(frozen=True)
class Staged(SamplingOverrides):
    """One staged answer, greedy unless told otherwise (``temperature=none``: as the stages say)."""

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits(baseline=True)
    temperature: float | None = 0.0

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        return [Ranked(c, Score.unscored("the only one")) for c in await walk(schema, decoder, self, 1)]
