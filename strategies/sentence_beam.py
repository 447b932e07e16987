"""Sentence-level beam search: choose after every sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits, Verifier
from structdecode.core.types import Candidate, Ranked, Schema, Stage, rank
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.stage_beam import check_beams
from structdecode.verifiers.log_prob import LogProb


@dataclass(frozen=True)
class SentenceBeam(SamplingOverrides):
    """As `StageBeam`, but choosing at every full stop: what LLaVA-o1 compares with (arXiv 2411.10440, section 4.4).

    Attributes:
        max_sentences: a stage's last sentence runs to the stage's end, however many full stops it has.
    """

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("candidates")
    candidates: int = 4
    beams: int = 1
    max_sentences: int = 32
    verifier: Verifier = field(default_factory=LogProb)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beams("sentence-beam", self.candidates, self.beams)
        if self.max_sentences < 1:
            raise ConfigError(f"sentence-beam: max_sentences must be at least 1, not {self.max_sentences}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        beams, ranked = [decoder.root], list[Ranked]()
        for stage in schema.stages:
            ranked = await self._stage(beams, stage, decoder)
            beams = [r.candidate for r in ranked[: self.beams]]
        return ranked

    async def _stage(self, beams: list[Candidate], stage: Stage, decoder: Decoder) -> list[Ranked]:
        """Sentence by sentence until every beam has closed the stage; closed ones wait in the pool."""
        going_on, closed, ranked = beams, list[Candidate](), list[Ranked]()
        for sentence in range(self.max_sentences):
            stops = (".",) if sentence < self.max_sentences - 1 else ()
            sampling = self.sampling(stage)
            grown = await decoder.extend(going_on, stage, n=self.candidates, sampling=sampling, stops=stops)
            pool = [*closed, *grown]
            ranked = rank(pool, await decoder.score(self.verifier, pool))
            kept = [r.candidate for r in ranked[: self.beams]]
            decoder.keep(kept)
            going_on = [c for c in kept if c.open_stage == stage.name]
            closed = [c for c in kept if c.open_stage is None]
            if not going_on:
                break
        return [r for r in ranked if r.candidate.open_stage is None]
