"""The model thinks about a text before it says whether it is right."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from structdecode.core.asking import check_rows
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Message, Prompt, Sampling, Score, Span
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import shown
from structdecode.verifiers.labels import read_labels

_FINAL = re.compile(r"\b(yes|no)\W*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Generative:
    """Has the model write critiques of the newest stage, earlier ones in view, and reads a verdict behind each.

    After ThinkPRM (Khalifa et al. 2025, arXiv 2504.16828: the label's probability behind a chain of thought) and GenPRM
    (Zhao et al. 2025, arXiv 2504.00891: the mean over votes, and the sampling here); no code is run. Of a finished answer
    the newest stage is its conclusion, or all of it where it has one stage. A partial one is judged by what is there.

    Attributes:
        n: critiques of each candidate; fewer where the budget is nearly spent.
        read: ``probability``: the mean over critiques of P(yes) / (P(yes) + P(no)), asked for in a turn behind each, one
            forward pass; ``vote``: the share of yes among the critiques that end with yes or no, without that turn.
        template: what is asked first, as `PTrue`'s template. verdict: what is asked behind a critique.
        temperature, top_p, top_k, max_tokens: sampling of a critique. One cut at ``max_tokens`` has a probability, and no vote.
    """

    n: int = 4
    read: Literal["probability", "vote"] = "probability"
    template: str = prompts.CRITIQUE
    verdict: str = prompts.VERDICT
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        check_settings(self)
        check_rows(self.n, "generative: n")
        _ = self._sampling  # raises ConfigError for a value out of range, before anything is asked

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_tokens)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return list(await asyncio.gather(*(self._score(prompt, candidate, model) for candidate in candidates)))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        asked = Prompt(prompts.fill(self.template, **shown(prompt.question, candidate)), prompt.images)
        critiques = await model.complete(asked, n=self.n, sampling=self._sampling)
        if self.read == "vote":
            return _share([critique.text for critique in critiques])
        values = await asyncio.gather(*(self._probability(asked, critique, model) for critique in critiques))
        if not values:
            return Score.unscored("no critique")
        reason = f"{sum(value > 0.5 for value in values)} of {len(values)} say yes"
        return Score(sum(values) / len(values), reason, {"probabilities": list(values)})

    async def _probability(self, asked: Prompt, critique: Span, model: Model) -> float:
        before = (Message("user", asked.question), Message("assistant", critique.text))
        reading = await read_labels(model, Prompt(self.verdict, asked.images, before), ("yes", "no"))
        return reading.probabilities[0]


def _share(critiques: Sequence[str]) -> Score:
    """Votes for yes among those that can be read."""
    votes = [found[1].lower() for text in critiques if (found := _FINAL.search(text))]
    yes, no = votes.count("yes"), votes.count("no")
    details = {"yes": yes, "no": no, "unreadable": len(critiques) - len(votes)}
    if not votes:
        return Score(None, f"none of {len(critiques)} critiques ends with yes or no", details)
    return Score(yes / len(votes), f"{yes} of {len(votes)} say yes", details, resolution=0.0)
