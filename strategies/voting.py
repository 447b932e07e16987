"""Choosing among whole answers by a selector: what both strategies of independent samples end with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from structdecode.core.types import Candidate, Prompt, Ranked, Schema, Score, rank
from structdecode.matching.answers import final_answer
from structdecode.matching.keys import prompt_key
from structdecode.selection.selectors import Best, Sample, Selector, settled


def selected(
    selector: Selector, candidates: Sequence[Candidate], scores: Sequence[Score], schema: Schema, prompt: Prompt
) -> list[Ranked]:
    """Candidates by the selector's values, those of equal value by their scores.

    Raises:
        ConfigError: the scores are not what the selector needs.
    """
    if isinstance(selector, Best):
        return rank(candidates, scores)
    pool = [
        Sample(vote(candidate, schema, prompt), score, final_answer(candidate.answer(schema)))
        for candidate, score in zip(candidates, scores, strict=True)
    ]
    values = [
        Score(value, _reason(sample, pool), resolution=0.0)
        if value is not None
        else Score.unscored(_why(sample, selector))
        for sample, value in zip(pool, settled(selector, pool), strict=True)
    ]
    return rank(candidates, values, then=scores)


def _reason(sample: Sample, pool: Sequence[Sample]) -> str:
    count = sum(other.answer == sample.answer for other in pool)
    return f"{count} of {len(pool)} say {sample.text!r}"


def _why(sample: Sample, selector: Selector) -> str:
    if sample.answer is None:
        return "no answer"
    return f"no vote of {type(selector).__name__}'s" + ("" if sample.score.scored else f": {sample.score.reason}")


def vote(candidate: Candidate, schema: Schema, prompt: Prompt) -> Hashable | None:
    """The key of the candidate's answer; None where it has none.

    Answers vote together by the rules that match them to references (`structdecode.matching.answer_key`), told the prompt's
    ``answer_kind`` and ``options``. A malformed or empty answer has no vote, nor has one that declines.
    """
    if not candidate.valid:
        return None
    return prompt_key(candidate.answer(schema), prompt)
