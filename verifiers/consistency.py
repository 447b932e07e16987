"""Does the question get the same answer again from one of the answer's stages alone?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from structdecode.core.asking import check_rows
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Sampling, Score
from structdecode.matching.keys import prompt_key
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import newest


@dataclass(frozen=True)
class Consistency:
    """Asks the question again with the picture and one stage given; the score is the share of answers that are the candidate's.

    Answers are the same by the rules that votes go by (`structdecode.matching.answer_key`). What counts as the
    candidate's answer is what its newest stage says. Where that is the given stage, it has none yet: there the score is
    the share of the commonest answer, how far the stage settles the question. Unscored where the given stage is not
    there yet, and where the newest one gives no answer.

    After self-consistency (Wang et al. 2022, arXiv 2203.11171), with one stage held.

    Attributes:
        given: the stage that is held, by name.
        n: how often it is asked again; fewer where the budget is nearly spent.
        template: with ``{question}`` and ``{given}`` (the stage as a line: ``Caption: ...``).
        temperature, top_p, max_tokens: sampling of the answers.
    """

    given: str = "CAPTION"
    n: int = 4
    template: str = prompts.ASK_AGAIN
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128

    def __post_init__(self) -> None:
        check_settings(self)
        check_rows(self.n, "consistency: n")
        _ = self._sampling  # raises ConfigError for a value out of range, before anything is asked

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, max_tokens=self.max_tokens)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        given = [candidate.stages.get(self.given) for candidate in candidates]
        texts = list(dict.fromkeys(text for text in given if text is not None))
        asked = await asyncio.gather(*(self._answers(prompt, text, model) for text in texts))
        answers = dict(zip(texts, asked, strict=True))
        return [
            Score.unscored(f"no {self.given} yet") if text is None else self._score(prompt, candidate, answers[text])
            for candidate, text in zip(candidates, given, strict=True)
        ]

    async def _answers(self, prompt: Prompt, text: str, model: Model) -> list[str]:
        asked = prompts.fill(self.template, question=prompt.question, given=prompts.hint_lines({self.given: text}))
        spans = await model.complete(Prompt(asked, prompt.images), n=self.n, sampling=self._sampling)
        return [span.text for span in spans]

    def _score(self, prompt: Prompt, candidate: Candidate, answers: Sequence[str]) -> Score:
        if not answers:
            return Score.unscored("it was not answered again")
        keys = Counter(key for answer in answers if (key := prompt_key(answer, prompt)) is not None)
        key = prompt_key(newest(candidate), prompt)
        if candidate.last_stage == self.given:
            same = max(keys.values(), default=0)
        elif key is None:
            return Score.unscored(f"no answer in its {candidate.last_stage}")
        else:
            same = keys[key]
        reason = f"{same} of {len(answers)} agree"
        return Score(same / len(answers), reason, {"answers": dict(Counter(answers))}, resolution=0.0)
