"""A verifier for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from structdecode.core.protocols import Model, Verifier
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class ByStage:
    """Sends each candidate to the verifier of its newest stage: ``ByStage({"caption": A, "reasoning": B})``.

    Attributes:
        routes: verifiers by stage name, in any case. default: for the other stages; None leaves them unscored.
    """

    routes: Mapping[str, Verifier]
    default: Verifier | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        routes = {name.upper(): verifier for name, verifier in self.routes.items()}
        scores = [Score.unscored(f"no verifier for stage {c.last_stage!r}") for c in candidates]
        for stage in dict.fromkeys(c.last_stage for c in candidates):
            verifier = routes.get(stage.upper(), self.default)
            if verifier is None:
                continue
            at = [i for i, c in enumerate(candidates) if c.last_stage == stage]
            for i, score in zip(at, await verifier.score(prompt, [candidates[i] for i in at], model), strict=True):
                scores[i] = score
        return scores
