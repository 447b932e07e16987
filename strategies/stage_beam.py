"""Stage-level beam search: choose after every stage, not at the end."""

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
class StageBeam(SamplingOverrides):
    """``candidates`` (N) continuations of every beam per stage, the best ``beams`` (k) go on.

    LLaVA-o1, section 3.3 (arXiv 2411.10440); the paper's search is k=1 with the model as its own judge.
    """

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("candidates")
    candidates: int = 4
    beams: int = 1
    verifier: Verifier = field(default_factory=LogProb)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beams("stage-beam", self.candidates, self.beams)

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        beams, ranked = [decoder.root], list[Ranked]()
        for stage in schema.stages:
            candidates = await decoder.extend(beams, stage, n=self.candidates, sampling=self.sampling(stage))
            ranked = rank(candidates, await decoder.score(self.verifier, candidates))
            beams = [r.candidate for r in ranked[: self.beams]]
            decoder.keep(beams)
        return ranked


def check_beams(name: str, candidates: int, beams: int) -> None:
    if candidates < 1:
        raise ConfigError(f"{name}: candidates must be at least 1, not {candidates}")
    if not 1 <= beams <= candidates:
        raise ConfigError(f"{name}: beams must be from 1 to candidates ({candidates}), not {beams}")
