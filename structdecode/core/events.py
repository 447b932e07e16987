"""The form of a trace's events, and whether what claims to be a trace has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from structdecode.core.shapes import misfit

LogProb = float | Literal["-inf", "inf", "nan"]


class CandidateEvent(TypedDict):
    path: list[int]
    stage: str
    text: str
    finish_reason: str
    tokens: int
    log_prob: LogProb
    closed: NotRequired[bool]
    seed: NotRequired[int | None]
    lead: NotRequired[str]
    token_texts: NotRequired[list[str]]
    token_log_probs: NotRequired[list[LogProb]]


class ScoreEvent(TypedDict):
    verifier: str
    paths: list[list[int]]
    values: list[float | None]
    reasons: list[str]
    details: NotRequired[list[Mapping[str, Any]]]
    asked: NotRequired[int]
    resolution: NotRequired[float]


class FailureEvent(TypedDict):
    verifier: str
    error: str


class KeepEvent(TypedDict):
    kept: list[list[int]]
    pruned: list[list[int]]


class ResultEvent(TypedDict):
    ranking: list[list[int]]
    answer: NotRequired[str]
    usage: NotRequired[Mapping[str, float]]
    usage_by_part: NotRequired[Mapping[str, Mapping[str, float]]]
    stopped_by: NotRequired[str | None]


class WarningEvent(TypedDict):
    text: NotRequired[str]


class ViewEvent(TypedDict):
    question: NotRequired[str]
    images: NotRequired[list[str]]


class _Event(TypedDict):
    kind: str


class _Header(TypedDict):
    events: list[dict[str, Any]]
    question: NotRequired[str]
    images: NotRequired[list[str]]
    schema: NotRequired[str]
    stages: NotRequired[list[str]]
    sample_id: NotRequired[str | None]


EVENTS: Mapping[str, Any] = {
    "candidate": CandidateEvent, "score": ScoreEvent, "failure": FailureEvent, "keep": KeepEvent,
    "result": ResultEvent, "warning": WarningEvent, "view": ViewEvent,
}  # fmt: skip


def trace_problem(trace: Any) -> str | None:
    """What keeps parsed JSON from being a trace (`structdecode.core.trace.Trace.as_dict`), in words; None where nothing does.

    Events of unknown kinds are passed over: a newer version may write them.
    """
    problem = misfit(trace, _Header)
    if problem is not None:
        return problem
    for number, event in enumerate(trace["events"], start=1):
        problem = misfit(event, _Event) or misfit(event, EVENTS.get(event.get("kind"), _Event)) or _uneven(event)
        if problem is not None:
            return f"event {number}: {problem}"
    return None


def _uneven(event: Mapping[str, Any]) -> str | None:
    if event["kind"] == "candidate" and not event["path"]:
        return "path is empty"
    if event["kind"] == "candidate" and len(event.get("token_texts", ())) != len(event.get("token_log_probs", ())):
        return "token_texts and token_log_probs are not of one length"
    if event["kind"] == "score":
        lengths = {len(event[key]) for key in ("paths", "values", "reasons", "details") if key in event}
        return None if len(lengths) == 1 else "paths, values, reasons and details are not of one length"
    return None
