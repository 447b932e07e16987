"""N whole answers, the majority wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from structdecode.answers import final_answer
from structdecode.errors import ConfigError
from structdecode.protocols import Decoder, StrategyTraits
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.staged import walk
from structdecode.types import Candidate, Ranked, Schema, Score, rank


@dataclass(frozen=True)
class SelfConsistency(SamplingOverrides):
    """``n`` independent answers; the most frequent final answer wins (Wang et al. 2022, arXiv 2203.11171).

    Answers are matched after normalisation. A malformed or empty answer has no vote. Of the candidates with the
    winning answer, and of answers with equal votes, the one the model found most probable comes first.
    """

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("n", independent=True)
    n: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ConfigError(f"self-consistency: n must be at least 1, not {self.n}")

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        candidates = await walk(schema, decoder, self, self.n)
        answers = [final_answer(c.answer(schema)) if c.valid else "" for c in candidates]
        votes = Counter(filter(None, answers))
        scores = [
            Score(votes[a] / len(candidates), f"{votes[a]} of {len(candidates)} say {a!r}", resolution=0.0) if a
            else Score.unscored("no answer")
            for a in answers
        ]  # fmt: skip
        return rank(candidates, scores, then=[_mean_log_prob(c, decoder.resolution) for c in candidates])


def _mean_log_prob(candidate: Candidate, resolution: float) -> Score:
    values = [value for span in candidate.spans for value in span.log_probs]
    return Score(sum(values) / len(values) if values else None, resolution=resolution)
