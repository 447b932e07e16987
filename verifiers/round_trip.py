"""Does the reasoning follow from the caption alone, and does the conclusion lead back to it?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.labels import read_labels

_LABELS = {"forward": ("correct", "incorrect"), "backward": ("yes", "no")}


@dataclass(frozen=True)
class RoundTrip:
    """The probability that the reasoning is right: from its caption without the picture, and back from its conclusion with it.

    The first is LLaVA-o1's check of a reasoning alone (arXiv 2411.10440; ``pre_check`` of `self-judge`) with the
    probability of "correct" among "correct" and "incorrect"; the second is `p-true` on the reasoning, the conclusion in
    view in place of the caption. The score is the mean of what can be asked: without a conclusion that is the caption's
    side alone. Unscored where a stage that is needed is not there yet: `by-stage` gives captions to another verifier.

    Attributes:
        direction: ``forward`` from the caption, ``backward`` from the conclusion.
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
        asked = {
            "forward": self._asked(prompt.question, candidate, self.caption, prompts.PRE_CHECK),
            "backward": self._asked(prompt.question, candidate, self.conclusion, prompts.P_TRUE),
        }
        ways = [way for way, text in asked.items() if text and self.direction in (way, "both")]
        if not ways:
            return Score.unscored(f"nothing to ask yet about its {self.reasoning}")
        readings = await asyncio.gather(
            *(
                read_labels(model, Prompt(asked[way], prompt.images if way == "backward" else ()), _LABELS[way])
                for way in ways
            )
        )
        found = {way: reading.probabilities[0] for way, reading in zip(ways, readings, strict=True)}
        reason = ", ".join(f"{way}: {value:.3f}" for way, value in found.items())
        return Score(sum(found.values()) / len(found), reason, found)

    def _asked(self, question: str, candidate: Candidate, given: str, template: str) -> str:
        """The question about the reasoning with one stage given; empty where one of the two is not there."""
        stages = candidate.stages
        if given not in stages or self.reasoning not in stages:
            return ""
        return prompts.fill(
            template, question=question, hint=prompts.hint_lines({given: stages[given]}),
            stage=self.reasoning.lower(), text=stages[self.reasoning],
        )  # fmt: skip
