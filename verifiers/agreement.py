"""Do an answer's stages contradict each other?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score

Check = Callable[[str, Mapping[str, str]], Mapping[str, bool]]
"""(question, stages by name) -> whether each thing that could be checked holds."""


def counting(question: str, stages: Mapping[str, str]) -> Mapping[str, bool]:
    """The pocket world's arithmetic: reasoning lists what the caption shows, and the numbers agree."""
    from structdecode.pocket import world

    asked = world.parse_question(question)
    things = world.parse_things(stages.get("CAPTION", "").lower())
    held: dict[str, bool] = {}
    if "CAPTION" in stages:
        held["caption is readable"] = things is not None
    steps = stages.get("REASONING", "").lower()
    total = re.search(r"so (\d+)\.?\s*$", steps)
    if asked is not None and things is not None and steps:
        held["reasoning follows from caption"] = steps == world.reasoning(asked, tuple(things)).lower()
    if total and "CONCLUSION" in stages:
        held["conclusion repeats reasoning"] = stages["CONCLUSION"].strip(" .") == total.group(1)
    return held


@dataclass(frozen=True)
class Agreement:
    """The share of checks that hold; unscored where nothing can be checked yet. Asks the model nothing.

    Attributes:
        check: what is checked; the default knows the pocket world, any function of question and stages will do.
    """

    check: Check = counting

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [self._score(prompt, candidate) for candidate in candidates]

    def _score(self, prompt: Prompt, candidate: Candidate) -> Score:
        held = self.check(prompt.question, candidate.stages)
        if not held:
            return Score.unscored("nothing to check yet")
        broken = [name for name, holds in held.items() if not holds]
        reason = f"not: {', '.join(broken)}" if broken else "no contradiction"
        return Score(1 - len(broken) / len(held), reason, dict(held), resolution=0.0)
