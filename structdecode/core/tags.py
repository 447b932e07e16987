"""Where stages begin and end in what a model wrote.

Only text that the model wrote for a stage is ever searched, and only for that stage's own tags: a tag in the
question, or another stage's tag in the text, is just text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from structdecode.core.errors import ConfigError
from structdecode.core.reading import cut
from structdecode.core.types import FinishReason, Schema, Span, Stage
from structdecode.core.visible import is_whole


def stopped(written: str, stage: Stage, stops: Sequence[str] = ()) -> bool:
    """Whether the text holds the stage's end tag or one of the stops."""
    return any(text in written for text in (stage.end, *stops) if text)


def forced_prefix(stage: Stage, previous: Span | None, separator: str) -> str:
    """What is put before a stage whose begin tag is forced.

    A tokenizer may merge an end tag's last character with what follows (``>`` and a newline, or ``><``): what
    the model has written of the separator and the tag already is not written again.
    """
    if previous is None:
        return stage.begin
    written, due = previous.overshoot, separator + stage.begin
    if due.startswith(written):
        return due[len(written) :]
    if stage.begin.startswith(written.strip()):
        return stage.begin[len(written.strip()) :]
    return due


def to_put_in(text: str, stage: Stage, *, leave_open: bool) -> tuple[str, str]:
    """A text that is put in as a stage, and the end tag behind it: empty where the stage is left open.

    Raises:
        ConfigError: the text continues behind the end tag.
    """
    body, found, behind = text.partition(stage.end) if stage.end else (text, "", "")
    if behind:
        raise ConfigError(f"the text put in for {stage.name!r} continues behind {stage.end!r}: {cut(behind, 60)!r}")
    return body, found or ("" if leave_open else stage.end)


def close_span(
    stage: Stage,
    written: str,
    *,
    prefix: str,
    open_spans: Sequence[Span],
    stops: Sequence[str],
    end_of_text: bool,
    leave_open: bool = False,
    token_ids: tuple[int, ...],
    log_probs: tuple[float, ...],
    proposal_log_probs: tuple[float, ...],
    certainties: tuple[float, ...],
    seed: int | None,
    prefix_log_probs: tuple[float, ...] = (),
    encode: Callable[[str], tuple[int, ...]],
) -> Span:
    """Makes a span of what was written after ``prefix``, closing it by force where the model did not.

    Args:
        written: the model's text up to and including what stopped it.
        open_spans: of this stage, where earlier ones left it open, so that no begin tag is due.
        end_of_text: whether the model ended its text; else it met a stop or ran out of tokens.
        leave_open: where it ran out of tokens the stage is not closed.
        encode: gives the token ids of what is put around the model's own.
    """
    before = "".join(span.raw for span in open_spans)
    held_back = open_spans[-1].pending if open_spans else ""
    seen = held_back + written
    end_at = seen.find(stage.end) if stage.end else -1
    at_stop = end_at < 0 and not end_of_text and any(stop in seen for stop in stops if stop)
    closed = not at_stop and not (leave_open and end_at < 0 and not end_of_text)
    body = seen[:end_at] if end_at >= 0 else seen
    pending = "" if closed else begun(stage.end, body)
    body = body.removesuffix(pending)
    reason: FinishReason = "stop"
    if end_at < 0 and not at_stop and (stage.end or not end_of_text):
        reason = "invalid" if end_of_text else "length"
    if stage.begin:
        head, begin, rest = body.partition(stage.begin)
        if prefix or open_spans:
            reason = "invalid" if begin else reason
        elif not begin or head.strip() or stage.begin in rest:
            reason = "invalid"
        else:
            body = rest
    suffix = stage.end if stage.end and end_at < 0 and closed else ""
    return Span(
        stage=stage.name, text=body.strip(), token_ids=token_ids, log_probs=log_probs,
        proposal_log_probs=proposal_log_probs, certainties=certainties, finish_reason=reason, prefix_ids=encode(prefix) if prefix else (), suffix_ids=encode(suffix) if suffix else (),
        raw=prefix + written + suffix, closed=closed, seed=seed, pending=pending, prefix_log_probs=prefix_log_probs,
        overshoot=seen[end_at + len(stage.end) :] if end_at >= 0 else "",
        lead=_space_between(before.removesuffix(held_back), body) if open_spans else " ",
    )  # fmt: skip


def begun(tag: str, text: str) -> str:
    """The longest end of a text that a tag may begin with, the whole tag excepted."""
    lengths = range(min(len(tag) - 1, len(text)), 0, -1)
    return next((tag[:length] for length in lengths if text.endswith(tag[:length])), "")


def _space_between(before: str, after: str) -> str:
    return before[len(before.rstrip()) :] + after[: len(after) - len(after.lstrip())]


def parse(schema: Schema, text: str) -> tuple[Span, ...]:
    """Reads a whole answer, white space between tags as it comes.

    A stage that is missing, repeated, out of order or not closed is a span with ``finish_reason="invalid"``,
    its text kept where there is any; nothing raises. Text outside of all tags makes the stage before it (or
    the first) invalid.
    """
    spans: list[Span] = []
    rest = text
    for stage in schema.stages:
        if not stage.begin:
            spans.append(Span(stage.name, rest.strip(), raw=rest))
            rest = ""
            continue
        before, begin, after = rest.partition(stage.begin)
        if not begin:
            if not stage.optional:
                spans.append(Span(stage.name, "", finish_reason="invalid"))
            continue
        body, end, remainder = after.partition(stage.end)
        valid = bool(end) and stage.begin not in body and not before.strip() and stage.begin not in remainder
        valid = valid and is_whole(schema, stage, body.strip())
        spans.append(
            Span(stage.name, body.strip(), finish_reason="stop" if valid else "invalid", raw=begin + body + end)
        )
        rest = remainder if end else ""
    if rest.strip() and spans:
        last = spans[-1]
        spans[-1] = Span(last.stage, last.text, finish_reason="invalid", raw=last.raw + rest)
    return tuple(spans)
