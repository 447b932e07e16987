"""Asks the model whether a text is right and takes the probability of "yes"."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import earlier_stages, newest


@dataclass(frozen=True)
class PTrue:
    """P(yes) / (P(yes) + P(no)) for the newest stage, by one forward pass and no generation (Kadavath et al. 2022, arXiv 2207.05221).

    Attributes:
        yes, no: the replies whose probabilities are compared.
        template: the question, with ``{question}``, ``{hint}`` (earlier stages), ``{stage}`` and ``{text}``.
    """

    yes: str = "yes"
    no: str = "no"
    template: str = prompts.P_TRUE

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.yes or not self.no or self.yes == self.no:
            raise ConfigError(f"p-true: yes and no must be two different texts, not {self.yes!r} and {self.no!r}")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return list(await asyncio.gather(*(self._score(prompt, candidate, model) for candidate in candidates)))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        question = prompts.fill(
            self.template, question=prompt.question, hint=prompts.hint_lines(earlier_stages(candidate)),
            stage=candidate.last_stage.lower(), text=newest(candidate),
        )  # fmt: skip
        yes, no = await model.log_probs(Prompt(question, prompt.images), [self.yes, self.no])
        return Score(probability_of_yes(yes, no), details={"yes": sum(yes), "no": sum(no)})


def probability_of_yes(yes: Sequence[float], no: Sequence[float]) -> float:
    """P(yes) / (P(yes) + P(no)) from the log-probabilities of each text's tokens."""
    return 1 / (1 + math.exp(min(sum(no) - sum(yes), 700.0)))
