"""What a verifier that asks the model shows it of a candidate."""

from __future__ import annotations

from collections.abc import Mapping

from structdecode.core.types import Candidate
from structdecode.verifiers import prompts


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
