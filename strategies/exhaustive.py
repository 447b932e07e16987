"""Every branch of a tree: for recordings from which any narrower search by stages can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits, Verifier
from structdecode.core.types import Ranked, Schema, rank
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.verifiers.log_prob import LogProb


@dataclass(frozen=True)
class Exhaustive(SamplingOverrides):
    """``candidates`` continuations of every candidate at every stage: n, then n**2, then n**3, ... of them; the verifier ranks the answers."""

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("candidates")
    candidates: int = 2
    verifier: Verifier = field(default_factory=LogProb)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ConfigError(f"exhaustive: candidates must be at least 1, not {self.candidates}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        level = [decoder.root]
        for stage in schema.stages:
            level = await decoder.extend(level, stage, n=self.candidates, sampling=self.sampling(stage))
        return rank(level, await decoder.score(self.verifier, level))
