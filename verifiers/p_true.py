"""Asks the model whether a text is right and takes the probability of "yes"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from structdecode.errors import ConfigError
from structdecode.protocols import Model
from structdecode.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.asking import together
from structdecode.verifiers.hints import earlier_stages, newest


@dataclass(frozen=True)
class PTrue:
    """P(yes) / (P(yes) + P(no)) for the newest stage, by one forward pass and no generation.

    Kadavath et al. 2022, section 3 (arXiv 2207.05221).

    Attributes:
        yes, no: the replies whose probabilities are compared.
        template: the question, with ``{question}``, ``{hint}`` (earlier stages), ``{stage}`` and ``{text}``.
    """

    yes: str = "yes"
    no: str = "no"
    template: str = prompts.P_TRUE

    def __post_init__(self) -> None:
        if not self.yes or not self.no or self.yes == self.no:
            raise ConfigError(f"p-true: yes and no must be two different replies, not {self.yes!r} and {self.no!r}")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return await together(*(self._score(prompt, candidate, model) for candidate in candidates))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        if not candidate.spans:
            return Score.unscored("nothing is written yet")
        question = prompts.fill(
            self.template, question=prompt.question, hint=prompts.hint_lines(earlier_stages(candidate)),
            stage=candidate.last_stage.lower(), text=newest(candidate),
        )  # fmt: skip
        yes, no = map(sum, await model.log_probs(Prompt(question, prompt.images), [self.yes, self.no]))
        odds = no - yes  # of "no", as a logarithm; not a number where both replies are impossible
        if math.isnan(odds):
            return Score.unscored(f"neither {self.yes!r} nor {self.no!r} has a probability")
        return Score(1 / (1 + math.exp(min(odds, 700.0))), details={"yes": yes, "no": no})
