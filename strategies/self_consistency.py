"""N whole answers, the majority wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits
from structdecode.core.types import Candidate, Ranked, Schema, Score
from structdecode.selection.selectors import Majority, Selector
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.staged import walk
from structdecode.strategies.voting import selected


@dataclass(frozen=True)
class SelfConsistency(SamplingOverrides):
    """``n`` independent answers; the most frequent final answer wins (Wang et al. 2022, arXiv 2203.11171).

    Which answers are the same: `structdecode.strategies.voting.vote`. Of the candidates with the winning answer, and of answers with
    equal votes, the one the model found most probable comes first.

    Attributes:
        selector: another way to count votes; the scores that it may weigh them by are mean log-probabilities.
    """

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("n", independent=True)
    n: int = 8
    selector: Selector = field(default_factory=Majority)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ConfigError(f"self-consistency: n must be at least 1, not {self.n}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        candidates = await walk(schema, decoder, self, self.n)
        scores = [_mean_log_prob(c, decoder.resolution) for c in candidates]
        return selected(self.selector, candidates, scores, schema, decoder.prompt)


def _mean_log_prob(candidate: Candidate, resolution: float) -> Score:
    values = [value for span in candidate.spans for value in span.log_probs]
    return Score(sum(values) / len(values) if values else None, resolution=resolution)
