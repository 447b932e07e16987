"""Does the reasoning follow from the caption alone, and does the conclusion lead back to it?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.labels import read_labels


@dataclass(frozen=True)
class RoundTrip:
    """P(correct) / (P(correct) + P(incorrect)) of the reasoning, from its caption without the picture and from its conclusion.

    The first is LLaVA-o1's check of a reasoning alone (arXiv 2411.10440; `self-judge`'s ``pre_check``) as a probability.
    The score is the mean of what can be asked: without a conclusion that is the caption's side alone. Unscored where a
    stage that is needed is not there yet; `by-stage` gives captions to another verifier.

    Attributes:
        direction: ``forward`` from the caption, text only; ``backward`` from the conclusion, with the picture.
        caption, reasoning, conclusion: names of the stages that are these.
    """

    direction: Literal["forward", "backward", "both"] = "both"
    caption: str = "CAPTION"
    reasoning: str = "REASONING"
    conclusion: str = "CONCLUSION"

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return list(await asyncio.gather(*(self._score(prompt, candidate, model) for candidate in candidates)))

    async def _score(self, prompt: Prompt, candidate: Candidate, model: Model) -> Score:
        questions = self._questions(prompt, candidate)
        if not questions:
            return Score.unscored(f"nothing to ask yet about its {self.reasoning}")
        readings = await asyncio.gather(*(read_labels(model, q, ("correct", "incorrect")) for q in questions.values()))
        found = {name: reading.probabilities[0] for name, reading in zip(questions, readings, strict=True)}
        reason = ", ".join(f"{name}: {value:.3f}" for name, value in found.items())
        return Score(sum(found.values()) / len(found), reason, found)

    def _questions(self, prompt: Prompt, candidate: Candidate) -> dict[str, Prompt]:
        """By direction, those that can be asked."""
        stages = candidate.stages
        ways = {
            "forward": (self.caption, prompts.PRE_CHECK, ()),
            "backward": (self.conclusion, prompts.BACK_CHECK, prompt.images),
        }
        return {
            name: Prompt(self._text(template, prompt.question, stages, given), images)
            for name, (given, template, images) in ways.items()
            if self.direction in (name, "both") and given in stages and self.reasoning in stages
        }

    def _text(self, template: str, question: str, stages: Mapping[str, str], given: str) -> str:
        return prompts.fill(
            template, question=question, hint=prompts.hint_lines({given: stages[given]}),
            stage=self.reasoning.lower(), text=stages[self.reasoning],
        )  # fmt: skip
