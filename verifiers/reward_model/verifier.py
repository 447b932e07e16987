"""A trained model says how likely each stage is right."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from structdecode.core.digests import checkpoint_digest
from structdecode.core.lookup import find_checkpoint
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score

if TYPE_CHECKING:
    from structdecode.core.batching import Batcher
    from structdecode.verifiers.reward_model.scoring import Found, Question

Aggregate = Literal["last", "min", "product"]


@dataclass(frozen=True)
class RewardModel:
    """A process reward model that `structdecode train-verifier` made (docs/training/reward-model.md), in a process of its own weights.

    The score is a probability. Each stage's own is in the details, by name. All candidates of a call, and those of
    other questions that are asked about meanwhile, are one batch of one forward pass. Each search is charged for its own:
    prompt and answer of each candidate, its pictures, one model call.
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

    @cached_property
    def _ask(self) -> Batcher[Question, Found]:
        from structdecode.verifiers.reward_model.scoring import shared

        return shared(find_checkpoint(self.path), self.device, self.dtype, self.digest)

    def close(self) -> None:
        """Lets go of the weights, as the end of this object does; another score loads them again."""
        self.__dict__.pop("_ask", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_ask"}

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if not candidates:
            return []
        from structdecode.verifiers.reward_model.scoring import Question

        loaded = "_ask" in self.__dict__
        ask = self._ask if loaded else await asyncio.to_thread(lambda: self._ask)
        found = await ask(Question(prompt, candidates, model.charge))
        noise = max(found.resolution, model.resolution if self.prior else 0.0)
        values, refused = found.values, found.refused
        return [
            self._score(values[number], candidate, noise) if number in values else Score.unscored(refused[number])
            for number, candidate in enumerate(candidates)
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
