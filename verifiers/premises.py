"""Are a caption's claims true of the picture? What follows from the caption counts as far as they are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model, Verifier
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.matching.texts import sentences
from structdecode.verifiers import prompts
from structdecode.verifiers.labels import read_labels
from structdecode.verifiers.p_true import PTrue

TEMPLATE = """\
Is this true of the picture? Answer yes or no.
{claim}"""


@dataclass(frozen=True)
class Premises:
    """Asks of each sentence of the caption whether it is true of the picture, and multiplies later stages' scores by the result.

    The gate of EVPV (Wang et al. 2026, arXiv 2603.16253): there a description of the picture is audited, and each step's
    score is multiplied by p = max(0, 1 - 0.5 * high - 0.2 * low), where high and low count its contradictions by severity.
    Here the caption is what later stages rest on, a sentence is a claim, and the probability of "yes" is read off the
    model's labels. A caption is scored by p itself, a stage without a caption before it by ``verifier`` alone.

    All claims of a call are asked about once, whoever makes them; without a picture nothing is gated.

    Attributes:
        verifier: scores the stages behind the caption.
        stage: the caption's name.
        aggregate: how the claims' probabilities become p: ``mean``, ``min``, ``product``, or ``contradictions``: EVPV's
            formula, a claim being a contradiction below 0.5, and a severe one (high) below ``severe``.
        one_sided: a gate only lowers a score. EVPV's does not: a bad step is held less bad behind a bad caption.
        yes, no: the replies whose probabilities are compared. template: the question, with ``{claim}`` and ``{question}``.
    """

    verifier: Verifier = field(default_factory=PTrue)
    stage: str = "CAPTION"
    aggregate: Literal["mean", "min", "product", "contradictions"] = "mean"
    severe: float = 0.2
    one_sided: bool = True
    yes: str = "yes"
    no: str = "no"
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.severe <= 0.5:
            raise ConfigError(f"premises: severe must be from 0 to 0.5, not {self.severe:g}")
        if not self.yes or not self.no or self.yes == self.no:
            raise ConfigError(f"premises: yes and no must be two different texts, not {self.yes!r} and {self.no!r}")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        later = [at for at, candidate in enumerate(candidates) if candidate.last_stage != self.stage]
        audit, steps = await asyncio.gather(
            self._audit(prompt, candidates, model),
            self.verifier.score(prompt, [candidates[at] for at in later], model) if later else _none(),
        )
        scores = [self._caption(prompt, audit, candidate) for candidate in candidates]
        for at, step in zip(later, steps, strict=True):
            scores[at] = self._gated(step, self._claims(candidates[at], audit))
        return scores

    async def _audit(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> dict[str, float]:
        """P(yes) of each claim."""
        if not prompt.images:
            return {}
        claims = list(dict.fromkeys(claim for c in candidates for claim in sentences(c.stages.get(self.stage, ""))))
        asked = [replace(prompt, question=self._question(prompt, claim)) for claim in claims]
        found = await asyncio.gather(*(read_labels(model, each, [self.yes, self.no]) for each in asked))
        return {claim: reading.probabilities[0] for claim, reading in zip(claims, found, strict=True)}

    def _question(self, prompt: Prompt, claim: str) -> str:
        return prompts.fill(self.template, question=prompt.question, claim=claim)

    def _claims(self, candidate: Candidate, audit: Mapping[str, float]) -> dict[str, float]:
        said = sentences(candidate.stages.get(self.stage, "")) if audit else []
        return {claim: audit[claim] for claim in said}

    def _caption(self, prompt: Prompt, audit: Mapping[str, float], candidate: Candidate) -> Score:
        claims = self._claims(candidate, audit)
        if not claims:
            return Score.unscored(f"{self.stage} claims nothing" if prompt.images else "there is no picture")
        least = min(claims, key=lambda claim: claims[claim])
        return Score(self._reliability(claims), f"least sure: {least}", {"claims": claims})

    def _gated(self, step: Score, claims: Mapping[str, float]) -> Score:
        if step.value is None or not claims:
            return step
        premises = self._reliability(claims)
        value = min(step.value, step.value * premises) if self.one_sided else step.value * premises
        details = {**step.details, "step": step.value, "premises": premises, "claims": claims}
        return replace(step, value=value, details=details)

    def _reliability(self, claims: Mapping[str, float]) -> float:
        values = list(claims.values())
        if self.aggregate == "contradictions":
            high = sum(value < self.severe for value in values)
            low = sum(self.severe <= value < 0.5 for value in values)
            return max(0.0, 1 - 0.5 * high - 0.2 * low)
        return {"mean": sum(values) / len(values), "min": min(values), "product": math.prod(values)}[self.aggregate]


async def _none() -> list[Score]:
    return []
