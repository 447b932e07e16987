"""N whole answers, the majority wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast, get_args

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Decoder, StrategyTraits
from structdecode.core.types import Candidate, Prompt, Ranked, Schema, Score, rank
from structdecode.matching import answer_key
from structdecode.matching.answers import final_answer
from structdecode.matching.types import Kind
from structdecode.strategies.sampling import SamplingOverrides
from structdecode.strategies.staged import walk


@dataclass(frozen=True)
class SelfConsistency(SamplingOverrides):
    """``n`` independent answers; the most frequent final answer wins (Wang et al. 2022, arXiv 2203.11171).

    Answers vote together by the rules that match them to references (`structdecode.matching.answer_key`), told the
    prompt's ``answer_kind`` and ``options``. A malformed or empty answer has no vote, nor has one that declines. Of the candidates with the
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
        answers = [_vote(c, schema, decoder.prompt) for c in candidates]
        votes = Counter(a for a in answers if a is not None)
        said = {a: final_answer(c.answer(schema)) for a, c in zip(reversed(answers), reversed(candidates), strict=True)}
        scores = [
            Score(votes[a] / len(candidates), f"{votes[a]} of {len(candidates)} say {said[a]!r}", resolution=0.0)
            if a is not None
            else Score.unscored("no answer")
            for a in answers
        ]  # fmt: skip
        return rank(candidates, scores, then=[_mean_log_prob(c, decoder.resolution) for c in candidates])


def _vote(candidate: Candidate, schema: Schema, prompt: Prompt) -> Hashable | None:
    """The key of the candidate's answer; None where it has none."""
    if not candidate.valid:
        return None
    options = {chr(ord("A") + i): text for i, text in enumerate(prompt.options)}
    kind = prompt.answer_kind if prompt.answer_kind in get_args(Kind) else None
    return answer_key(candidate.answer(schema), cast("Kind | None", kind), options, prompt.question)


def _mean_log_prob(candidate: Candidate, resolution: float) -> Score:
    values = [value for span in candidate.spans for value in span.log_probs]
    return Score(sum(values) / len(values) if values else None, resolution=resolution)
