"""A third-party strategy, whole: `pip install` this folder and `structdecode list strategies` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits, Verifier
from structdecode.core.types import Candidate, Ranked, Schema, Score, rank
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.staged import walk
from structdecode.verifiers.log_prob import LogProb


@dataclass(frozen=True)
class UntilSure(SamplingOverrides):
    """Best-of-n that stops at the first answer whose score is high enough: easy questions cost less.

    Attributes:
        n: the most answers that are drawn. at_once: how many in one batch, between two looks at their scores.
        enough: the score that ends the search; of `log-prob`, the mean log-probability of a token.
    """

    traits: ClassVar[StrategyTraits] = StrategyTraits("n")
    n: int = 16
    at_once: int = 4
    enough: float = -0.02
    verifier: Verifier = field(default_factory=LogProb)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.at_once <= self.n:
            raise ConfigError(f"until-sure: at_once must be from 1 to n ({self.n}), not {self.at_once}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        candidates, scores = list[Candidate](), list[Score]()
        while len(candidates) < self.n:
            drawn = await walk(schema, decoder, self, min(self.at_once, self.n - len(candidates)))
            candidates += drawn
            scores += await decoder.score(self.verifier, drawn)
            if any(score.value is not None and score.value >= self.enough for score in scores):
                break
        return rank(candidates, scores)
