"""From a search's `Result` to the `Record` that is kept of it: what was right, where, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from structdecode.core.budget import Usage
from structdecode.core.flops import ModelCost
from structdecode.core.plain import digest_of
from structdecode.core.results import Result
from structdecode.core.types import Path, Prompt, Schema, join_spans
from structdecode.core.visible import visible_text
from structdecode.evaluation.cells import Cell
from structdecode.evaluation.costs import PARTS
from structdecode.evaluation.identity import RECORD_VERSION
from structdecode.matching.types import Match, Question
from structdecode.records.types import Record, ScoredCandidate, ScoringRound

Matcher = Callable[[str, Question], Match]

WHOLE_ANSWER = "ANSWER"
"""The stage of a round in which whole answers were scored, whatever stages they have."""

_REASON_LENGTH = 300
_MOST = 1e300
"""What is kept of a score's details is below it: neither NaN nor more than a float holds."""


def record_key(cell: Cell, question_digest: str, models: Sequence[str], code: Mapping[str, Any] | None = None) -> str:
    """Digest of everything that decides the result.

    Args:
        models: digests of the model, and of the judge if any. code: other code than the cell has now.
    """
    model, *judge = models
    cell_digest = cell.digest if code is None else cell.digest_with(code)
    return digest_of([RECORD_VERSION, cell_digest, model, question_digest, *judge])


def make_record(
    key: str, cell: Cell, question: Question, prompt: Prompt, result: Result, seconds: float,
    match: Matcher, model_cost: ModelCost | None,
) -> Record:  # fmt: skip
    """The record of a search that ran. Equal answers are matched once."""
    schema, match = cell.schema.for_prompt(prompt), _once(match, question)
    found = match(result.answer, question)
    usage = {part: counts(result.usage_by_part.get(part, Usage())) for part in PARTS}
    sizes = [picture.image.size for picture in prompt.images]
    flops = _flops(result, model_cost, sizes) if model_cost is not None else {}
    pool = tuple(
        ScoredCandidate(path, answer.extracted, answer.correct, finite(r.score.value), r.candidate.valid)
        for path, r in result.draws
        for answer in [match(r.candidate.answer(schema), question)]
    )
    best = result.best
    stages = result.stages
    return Record(
        key=key, cell=cell.name, id=question.id, strategy=cell.strategy_name, verifier=cell.verifier_name,
        settings={**cell.settings, **cell.sweep}, seed=cell.seed, answer=result.answer, correct=found.correct,
        rule=found.rule, extracted=found.extracted, status=found.status,
        valid=best is not None and best.valid and best.finished(schema), usage=usage, flops=flops, seconds=seconds,
        stopped_by=result.stopped_by, stages=stages,
        wrong_stages=tuple(
            name for name, text in stages.items()
            if name in question.stages and normalised(text) != normalised(question.stages[name])
        ),
        pool=pool, rounds=_rounds(result.trace.events, schema, question, match),
        failures=tuple(f"{event['verifier']}: {event['error']}" for event in result.trace.failures),
        verifier_seconds=result.usage_by_part.get("verifier", Usage()).seconds,
    )  # fmt: skip


def _flops(result: Result, model_cost: ModelCost, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
    """By part. What verifiers' own models did costs what they said, the rest what the search's model costs."""
    parts = {part: result.usage_by_part.get(part, Usage()) for part in PARTS}
    parts["verifier"] -= result.own_models
    found = {part: model_cost.of(counts(used), sizes) for part, used in parts.items()}
    return {**found, "verifier": found["verifier"] + result.own_models.flops}


def _once(match: Matcher, question: Question) -> Matcher:
    """The matcher for one question, which sees each text once."""
    known = cache(lambda text: match(text, question))
    return lambda text, _: known(text)


def unasked(key: str, cell: Cell, question: Question, error: str, match: Matcher) -> Record:
    """The record of a question that could not be asked: wrong, at no cost, and the reason."""
    found = match("", question)
    nothing = {part: counts(Usage()) for part in PARTS}
    return Record(
        key=key, cell=cell.name, id=question.id, strategy=cell.strategy_name, verifier=cell.verifier_name,
        settings={**cell.settings, **cell.sweep}, seed=cell.seed, answer="", correct=False, rule=found.rule,
        extracted="", status="empty", valid=False, usage=nothing, flops={}, seconds=0.0, stopped_by=None, stages={},
        wrong_stages=(), pool=(), rounds=(), error=error,
    )  # fmt: skip


def compact_trace(result: Result) -> dict[str, Any]:
    """The search tree without what a reader of the report does not need; `structdecode.core.view` still renders it."""
    trace = result.trace.as_dict()
    return {**trace, "events": [_compact(event) for event in trace["events"]]}


def _compact(event: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(event)
    if event["kind"] == "candidate":
        if not isinstance(event["log_prob"], str):  # "-inf"
            kept["log_prob"] = round(finite(event["log_prob"]) or 0.0, 4)
        del kept["seed"]
    elif event["kind"] == "score":
        kept["values"] = [finite(value) for value in event["values"]]
        kept["reasons"] = [reason[:_REASON_LENGTH] for reason in event["reasons"]]
        kept["details"] = [figures_of(details) for details in event["details"]]
    elif event["kind"] == "result":
        kept["usage"] = _without_time(event["usage"])
        kept["usage_by_part"] = {part: _without_time(used) for part, used in event["usage_by_part"].items()}
    return kept


def figures_of(details: Mapping[str, Any]) -> dict[str, Any]:
    """Of a score's details the numbers, and those in mappings among them: what can be averaged."""
    inner = {key: figures_of(value) for key, value in details.items() if isinstance(value, Mapping)}
    numbers = {key: value for key, value in details.items() if isinstance(value, int | float) and abs(value) < _MOST}
    return {
        **{key: finite(value) for key, value in numbers.items()},
        **{key: value for key, value in inner.items() if value},
    }


def _without_time(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: count for name, count in usage.items() if name != "seconds"}


def finite(value: float | None) -> float | None:
    """To 7 significant digits, which is what float32 has; None for what is not a number.

    The last ones differ with the batch that a row was computed in: tokens, choices and counts do not.
    """
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def normalised(text: str) -> str:
    return " ".join(text.lower().split())


def counts(usage: Usage) -> dict[str, float]:
    return {name: count for name, count in usage.as_dict().items() if name != "seconds"}


# ------------------------------------------------------------------ rounds of verification


def _rounds(
    events: Sequence[Mapping[str, Any]], schema: Schema, question: Question, match: Matcher
) -> tuple[ScoringRound, ...]:
    made = {tuple(event["path"]): event for event in events if event["kind"] == "candidate"}
    scored: set[Path] = set()
    found = []
    for event in events:
        if event["kind"] == "score":
            paths = tuple(tuple(path) for path in event["paths"])
            stage = _stage_of(paths, made, scored)
            right = tuple(_right(path, made, schema, question, match) for path in paths)
            values = tuple(map(finite, event["values"]))
            found.append(ScoringRound(stage, event["verifier"], paths, values, right, _why_unscored(event)))
            scored.update(paths)
    return tuple(found)


def _why_unscored(event: Mapping[str, Any]) -> str:
    """The first reason of a candidate without a score."""
    reasons = (reason for value, reason in zip(event["values"], event["reasons"], strict=True) if value is None)
    return next(reasons, "")[:_REASON_LENGTH]


def _stage_of(paths: Sequence[Path], made: Mapping[Path, Mapping[str, Any]], scored: set[Path]) -> str:
    """The newest candidate's stage; `WHOLE_ANSWER` where none of its earlier ones had been scored."""
    longest = max(paths, key=len, default=())
    if longest not in made:
        return ""
    earlier = [longest[:length] for length in range(1, len(longest))]
    stage = str(made[longest]["stage"])
    before = [path for path in earlier if made[path]["stage"] != stage]
    return WHOLE_ANSWER if before and not any(path in scored for path in earlier) else stage


def _right(
    path: Path, made: Mapping[Path, Mapping[str, Any]], schema: Schema, question: Question, match: Matcher
) -> bool | None:
    """Whether a candidate's newest stage is right so far.

    A finished answer is matched as such. Another stage is compared with the reference text: all of it where it is
    closed, as far as it goes where it is not (sentence beam). None where there is no reference.
    """
    if path not in made:
        return None
    newest = made[path]
    texts = _texts(path, made)
    last = schema.stages[-1].name
    if newest["stage"] == last and newest["closed"]:
        return match(visible_text(schema, texts), question).correct
    reference = question.stages.get(newest["stage"])
    if reference is None:
        return None
    text, wanted = normalised(texts[newest["stage"]]), normalised(reference)
    return text == wanted if newest["closed"] else wanted.startswith(text)


def _texts(path: Path, made: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    """Text by stage along a path, as `Candidate.stages` has it."""
    events = [made[path[:length]] for length in range(1, len(path) + 1)]
    return join_spans((event["stage"], event.get("lead", " "), event["text"]) for event in events)
