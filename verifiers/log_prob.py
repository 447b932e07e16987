"""How probable the model found what it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score, Span

Scope = Literal["answer", "stage"]


@dataclass(frozen=True)
class LogProb:
    """Mean log-probability of the tokens that the model wrote, in nats a token. Asks the model nothing.

    Attributes:
        scope: ``answer`` takes all of it, ``stage`` only the newest stage.
    """

    scope: Scope = "answer"

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [_mean([v for span in in_scope(c, self.scope) for v in span.log_probs]) for c in candidates]


@dataclass(frozen=True)
class SelfCertainty:
    """Mean KL divergence of the model's next-token distribution from uniform, in nats (Kang et al. 2025, arXiv 2502.18581)."""

    scope: Scope = "answer"

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [_mean([v for span in in_scope(c, self.scope) for v in span.certainties]) for c in candidates]


@dataclass(frozen=True)
class PiCSAR:
    """Log-probability of the reasoning plus that of the answer behind it, in nats (Leang et al. 2025, arXiv 2508.21787).

    The answer is the newest stage, the reasoning all stages before. With `best` as the selector this is PiCSAR.

    Attributes:
        normalise: divide the reasoning's by its number of tokens (PiCSAR-N); then it is that of a token, the answer's is whole.
    """

    normalise: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [self._score(candidate) for candidate in candidates]

    def _score(self, candidate: Candidate) -> Score:
        answer = [v for span in in_scope(candidate, "stage") for v in span.log_probs]
        reasoning = [v for span in candidate.spans if span.stage != candidate.last_stage for v in span.log_probs]
        if not answer:
            return Score.unscored("the model wrote no tokens")
        before = math.fsum(reasoning) / (max(1, len(reasoning)) if self.normalise else 1)
        return Score(before + math.fsum(answer), details={"reasoning": before, "answer": math.fsum(answer)})


def in_scope(candidate: Candidate, scope: Scope) -> list[Span]:
    """A candidate's spans, or those of its newest stage."""
    return [span for span in candidate.spans if scope == "answer" or span.stage == candidate.last_stage]


def _mean(values: list[float]) -> Score:
    if not values:
        return Score.unscored("the model wrote no tokens")
    return Score(sum(values) / len(values), details={"tokens": len(values)})
