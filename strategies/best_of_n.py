"""N whole answers, the verifier picks one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits, Verifier
from structdecode.core.types import Ranked, Schema
from structdecode.selection.selectors import Best, Selector
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.staged import walk
from structdecode.strategies.voting import selected
from structdecode.verifiers.log_prob import LogProb


@dataclass(frozen=True)
class BestOfN(SamplingOverrides):
    """``n`` independent answers, ranked by the verifier once they are complete (Cobbe et al. 2021, arXiv 2110.14168).

    Attributes:
        selector: what makes of their scores and answers which is best; the default is the best scored.
    """

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("n", independent=True)
    n: int = 8
    verifier: Verifier = field(default_factory=LogProb)
    selector: Selector = field(default_factory=Best)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ConfigError(f"best-of-n: n must be at least 1, not {self.n}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        candidates = await walk(schema, decoder, self, self.n)
        scores = await decoder.score(self.verifier, candidates)
        return selected(self.selector, candidates, scores, schema, decoder.prompt)
