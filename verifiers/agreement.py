"""Do an answer's stages contradict each other?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from structdecode.protocols import Model
from structdecode.types import Candidate, Prompt, Score

Check = Callable[[str, Mapping[str, str]], Mapping[str, bool] | Score | float]
"""(question, stages by name) -> whether each thing that could be checked holds; or a score of its own."""


def counting(question: str, stages: Mapping[str, str]) -> Mapping[str, bool]:
    """The pocket world's arithmetic: reasoning lists what counts of the caption, and the numbers agree.

    Nothing is checked on any other question. Reasoning that has not come to its "So N." yet holds while what it
    lists so far is right. Case and white space do not matter.
    """
    from structdecode.pocket import world

    asked = world.parse_question(question)
    if asked is None:
        return {}
    held: dict[str, bool] = {}
    things = world.parse_things(stages.get("CAPTION", "").lower())
    if "CAPTION" in stages:
        held["caption is readable"] = things is not None
    steps = stages.get("REASONING", "").lower()
    total = re.search(r"\bso (\d+)\s*\.?\s*$", steps)
    if "CAPTION" in stages and things is not None and steps:
        expected = [str(thing) for thing in asked.counted(tuple(things))]
        listed = _listed(steps[: total.start()] if total else steps)
        whole = total is None or int(total.group(1)) == len(listed) == len(expected)
        held["reasoning follows from caption"] = whole and listed == expected[: len(listed)]
    said = re.findall(r"\d+", stages.get("CONCLUSION", ""))
    if total and "CONCLUSION" in stages:
        held["conclusion repeats reasoning"] = said[-1:] == [total.group(1)]
    return held


def _listed(steps: str) -> list[str]:
    """The objects of ``1 a1 red square. 2 c3 red circle.``; a sentence of another form stays as it is."""
    sentences = (" ".join(part.split()) for part in steps.split("."))
    return [re.sub(r"^\d+ ", "", sentence) for sentence in sentences if sentence]


@dataclass(frozen=True)
class Agreement:
    """The share of checks that hold; unscored where nothing can be checked. Asks the model nothing.

    Attributes:
        check: what is checked; the default knows the pocket world, any function of question and stages will do.
    """

    check: Check = counting

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [self._score(prompt, candidate) for candidate in candidates]

    def _score(self, prompt: Prompt, candidate: Candidate) -> Score:
        held = self.check(prompt.question, candidate.stages)
        if not isinstance(held, Mapping):
            return held if isinstance(held, Score) else Score(float(held))
        if not held:
            return Score.unscored("nothing can be checked")
        broken = [name for name, holds in held.items() if not holds]
        reason = f"not: {', '.join(broken)}" if broken else "no contradiction"
        return Score(1 - len(broken) / len(held), reason, dict(held))
