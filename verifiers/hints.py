"""What a verifier that asks the model shows it of a candidate."""

from __future__ import annotations

from collections.abc import Container, Mapping

from structdecode.types import Candidate


def before_newest(candidate: Candidate) -> Mapping[str, str]:
    """The stages before the newest one."""
    return {n: t for n, t in candidate.stages.items() if n != candidate.last_stage}


def earlier_stages(candidate: Candidate) -> Mapping[str, str]:
    """The stages before the newest one, without SUMMARY: upstream's hint."""
    return {n: t for n, t in before_newest(candidate).items() if n != "SUMMARY"}


def newest(candidate: Candidate) -> str:
    """The newest stage's text."""
    return candidate.stages.get(candidate.last_stage, "")


def tagged(candidate: Candidate, stages: Container[str]) -> str:
    """The text of some stages with their tags, as the model would have written it."""
    return "".join(span.raw for span in candidate.spans if span.stage in stages).strip()
