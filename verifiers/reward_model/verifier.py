"""A trained model says how likely each stage is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from structdecode.core.digests import checkpoint_digest
from structdecode.core.lookup import find_checkpoint
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers.own_model import OwnModel

if TYPE_CHECKING:
    from structdecode.verifiers.reward_model.scoring import ValueReader

Aggregate = Literal["last", "min", "product"]


@dataclass(frozen=True)
class RewardModel(OwnModel):
    """A process reward model that `structdecode train-verifier` made (docs/training/reward-model.md), in a process of its own weights.

    The score is a probability. Each stage's own is in the details, by name. It runs on the engine that searches run on:
    the prompt with its pictures is computed once a search, of candidates what is new since they were scored last, all of
    a call in one batch, beside those of other questions. Each search is charged for its own.
    Verifiers of one path share the weights, which are freed with the last of them.

    Attributes:
        path: the directory, or a registered checkpoint: ``pocket-verifier`` is one for the embedded model.
        aggregate: how stages become one number: the newest stage's value (which is about all before it too), the least
            one (Lightman et al. 2023 call it minimum), or the product.
        prior: how much the generator's own opinion counts beside the reward model's: that many times the summed
            log-probability of all that the candidate wrote is added to the value's log-odds.
        device, dtype: default: CUDA where there is one; float32 on a CPU, else the checkpoint's own.
        digest: of weights, description and all else in the directory: another training at the same path is another verifier.
    """

    path: str
    aggregate: Aggregate = "last"
    prior: float = 0.0
    device: str | None = None
    dtype: str = "auto"
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Before any work is done: a wrong path should not cost a search."""
        from structdecode.verifiers.reward_model.config import RewardConfig

        check_settings(self)
        place = find_checkpoint(self.path)
        RewardConfig.load(place)
        object.__setattr__(self, "digest", checkpoint_digest(place))

    async def _reader(self) -> ValueReader:
        from structdecode.verifiers.reward_model import scoring

        settings = (self.device, self.dtype)
        return await self._from_checkpoint(
            "reward model", self.path, self.digest, settings, lambda place: scoring.load(place, *settings)
        )

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if not candidates:
            return []
        reader = await self._reader()
        found = await reader.values(prompt, candidates, model)
        noise = max(reader.backend.resolution, model.resolution if self.prior else 0.0)
        return [
            Score.unscored(values) if isinstance(values, str) else self._score(values, candidate, noise)
            for values, candidate in zip(found, candidates, strict=True)
        ]

    def _score(self, stages: Sequence[tuple[str, float]], candidate: Candidate, noise: float) -> Score:
        values = [value for _, value in stages]
        whole = {"last": values[-1], "min": min(values), "product": math.prod(values)}[self.aggregate]
        if self.prior:
            written = sum(value for span in candidate.spans for value in span.log_probs)
            whole = _probability(_log_odds(whole) + self.prior * written)
        return Score(whole, f"{stages[-1][0]}: {values[-1]:.3f}", dict(stages), resolution=noise)


def _log_odds(probability: float) -> float:
    """Finite at both ends."""
    return math.log(max(probability, 1e-300)) - math.log(max(1.0 - probability, 1e-16))


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))
