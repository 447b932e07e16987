"""What a verifier that asks the model shows it of a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from structdecode.core.types import Candidate
from structdecode.verifiers import prompts


class SideBySide(NamedTuple):
    """Candidates side by side: what to look for, what they have in common, and where they differ."""

    rubric: str
    hint: str
    texts: list[str]


def side_by_side(candidates: Sequence[Candidate]) -> SideBySide:
    """Candidates that differ in the newest stage only are compared on that stage, others as whole answers."""
    first, *others = candidates
    if first.spans and all(_differ_in_newest(first, other) for other in others):
        rubric = prompts.RUBRICS.get(first.last_stage, prompts.WHOLE_ANSWER_RUBRIC)
        return SideBySide(rubric, prompts.hint_lines(earlier_stages(first)), [newest(c) for c in candidates])
    return SideBySide(prompts.WHOLE_ANSWER_RUBRIC, "", [candidate.text for candidate in candidates])


def _differ_in_newest(one: Candidate, other: Candidate) -> bool:
    by_stage = earlier_stages(one) == earlier_stages(other) and one.last_stage == other.last_stage
    return by_stage and one.spans[:-1] == other.spans[:-1]


def same_text(one: Candidate, other: Candidate) -> bool:
    """Whether a judge could not tell them apart."""
    return newest(one) == newest(other) and one.stages == other.stages


def earlier_stages(candidate: Candidate) -> Mapping[str, str]:
    """The stages before the newest one, without SUMMARY: upstream's hint."""
    return {n: t for n, t in candidate.stages.items() if n not in ("SUMMARY", candidate.last_stage)}


def newest(candidate: Candidate) -> str:
    """The newest stage's text."""
    return candidate.stages.get(candidate.last_stage, "")


def shown(question: str, candidate: Candidate) -> dict[str, str]:
    """What templates put in: ``question``, ``hint`` (the earlier stages), ``stage`` (the newest one's name) and ``text``."""
    return {
        "question": question,
        "hint": prompts.hint_lines(earlier_stages(candidate)),
        "stage": candidate.last_stage.lower(),
        "text": newest(candidate),
    }
