"""What one search asked its model, and what came of it, each piece under a key of all that decided it.

A key holds the prompt (text, chat, pictures by content), the candidate that is continued, the stage, how tokens are drawn and the
row's seed (none where decoding is greedy). It does not hold a row's limit of tokens: a row that ended by itself below a limit is
the same with any limit that leaves it room, and `WrittenRow.fits` tells which these are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdecode.core.protocols import ForcedText, GenerationRequest, Row
from structdecode.core.reuse import PromptTokens
from structdecode.core.tags import stopped
from structdecode.core.types import Candidate, Path, Prompt, Sampling, Span

_LISTS = ("log_probs", "certainties", "proposal_log_probs", "prefix_log_probs")
_IDS = ("token_ids", "prefix_ids", "suffix_ids")
_SAMPLED = tuple(f.name for f in fields(Sampling) if f.name != "max_tokens")


@dataclass(frozen=True)
class WrittenRow:
    """A span that the model wrote, or was given.

    Attributes:
        key: of all that decided it. prompt: its prompt's key. path: its place in the search tree, empty for a verifier's question.
        max_tokens: the limit that it had. drawn: tokens that were drawn for it, an end-of-text included.
        cut: whether the limit ended it.
        layers: of which its span has the hidden states.
    """

    key: str
    prompt: str
    path: Path
    span: Span
    max_tokens: int = 0
    drawn: int = 0
    cut: bool = False
    layers: tuple[int, ...] = ()

    def fits(self, max_tokens: int) -> bool:
        """Whether the same row with this limit is the same span."""
        return max_tokens == self.max_tokens or (not self.cut and self.drawn <= max_tokens)

    def answers(self, request: GenerationRequest) -> bool:
        """Whether its span has all that is asked for beside the text."""
        told = len(self.span.prefix_log_probs) == len(self.span.prefix_ids)
        return set(request.hidden_layers) <= set(self.layers) and (told or not request.prefix_log_probs)

    def span_for(self, request: GenerationRequest, seed: int | None = None) -> Span:
        """Its span with what is asked for, and no more. ``seed``: the asked row's, which greedy rows do not go by."""
        states, asked = self.span.hidden_states, request.hidden_layers
        chosen = states[[self.layers.index(layer) for layer in asked]] if states is not None and asked else None
        layers = () if chosen is None else tuple(asked)
        told = self.span.prefix_log_probs if request.prefix_log_probs else ()
        return replace(self.span, hidden_states=chosen, hidden_layers=layers, prefix_log_probs=told, seed=seed)


@dataclass
class Tape:
    """All of one search, in the order it came.

    Attributes:
        prompt: key of the search's own prompt. resolution: of the model's numbers (`structdecode.core.resolution`).
        question, cell: what asked, where that is known.
        prompts: tokens of each prompt that was opened, by key.
        texts: log-probabilities of a text as the answer to a prompt, by key.
    """

    prompt: str
    resolution: float
    question: str = ""
    cell: str = ""
    prompts: dict[str, PromptTokens] = field(default_factory=dict)
    rows: list[WrittenRow] = field(default_factory=list)
    texts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.rows or self.texts or self.prompts)


# ------------------------------------------------------------------ keys
def _key(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def prompt_key(prompt: Prompt) -> str:
    """Of all that a model sees of a prompt."""
    turns = [(message.role, message.text) for message in prompt.history]
    return _key(prompt.question, turns, [picture.digest for picture in prompt.images])


def row_key(prompt: str, row: Row, request: GenerationRequest) -> str:
    """Of a row that the model writes."""
    seed = None if request.sampling.greedy else row.seed
    drawing = tuple(getattr(request.sampling, name) for name in _SAMPLED)
    stops = tuple(request.stops)
    return _key("row", prompt, row.prefix.content, _place(request), drawing, stops, request.leave_open, seed)


def forced_key(prompt: str, prefix: Candidate, text: ForcedText, request: GenerationRequest) -> str:
    """Of a text that is put in."""
    given = (
        text if isinstance(text, str) else (text.token_ids, text.suffix_ids) if isinstance(text, Span) else tuple(text)
    )
    return _key("forced", prompt, prefix.content, _place(request), given, request.leave_open)


def text_key(prompt: str, text: str) -> str:
    return _key("text", prompt, text)


def _place(request: GenerationRequest) -> tuple[object, ...]:
    stage = request.stage
    return stage.name, stage.begin, stage.end, request.force_begin, request.separator


# ------------------------------------------------------------------ rows
def written_row(prompt: str, row: Row, request: GenerationRequest, span: Span) -> WrittenRow:
    """What is kept of a row that ended: how many tokens were drawn, and whether the limit ended it, follow from its text."""
    forced = request.forced(row.prefix)
    written = span.raw.removeprefix(forced)
    written = written.removesuffix(request.stage.end) if span.suffix_ids else written
    open_spans = request.open_spans(row.prefix)
    seen = (open_spans[-1].pending if open_spans else "") + written
    at_stop = stopped(seen, request.stage, request.stops)
    tokens = len(span.token_ids)
    cut = not at_stop and (span.finish_reason == "length" or tokens >= row.max_tokens)
    drawn = tokens + (not at_stop and not cut)
    return WrittenRow(
        row_key(prompt, row, request), prompt, row.path, span, row.max_tokens, drawn, cut, _layers(span, request)
    )  # fmt: skip


def _layers(span: Span, request: GenerationRequest) -> tuple[int, ...]:
    return tuple(request.hidden_layers) if span.hidden_states is not None else ()


def forced_row(prompt: str, prefix: Candidate, text: ForcedText, request: GenerationRequest, span: Span) -> WrittenRow:
    key, tokens = forced_key(prompt, prefix, text, request), len(span.token_ids)
    return WrittenRow(key, prompt, (), span, drawn=tokens, layers=_layers(span, request))


# ------------------------------------------------------------------ JSON
def as_dict(tape: Tape) -> dict[str, Any]:
    """A line of a pool's ``searches.jsonl``, but for hidden states, which are a file of their own."""
    return {
        "prompt": tape.prompt, "resolution": tape.resolution, "question": tape.question, "cell": tape.cell,
        "prompts": {key: asdict(tokens) for key, tokens in tape.prompts.items()},
        "rows": [_row_as_dict(row) for row in tape.rows],
        "texts": {key: _numbers(values) for key, values in tape.texts.items()},
    }  # fmt: skip


def from_dict(line: Mapping[str, Any], hidden: Mapping[str, NDArray[np.float32]] | None = None) -> Tape:
    """The tape of a line. ``hidden``: its rows' hidden states, by number."""
    return Tape(
        line["prompt"], line["resolution"], line["question"], line["cell"],
        {key: PromptTokens(**{**tokens, "ids": tuple(tokens["ids"])}) for key, tokens in line["prompts"].items()},
        [_row(row, (hidden or {}).get(str(at))) for at, row in enumerate(line["rows"])],
        {key: list(_floats(values)) for key, values in line["texts"].items()},
    )  # fmt: skip


def _row_as_dict(row: WrittenRow) -> dict[str, Any]:
    span = {
        f.name: _numbers(value) if f.name in _LISTS else value
        for f in fields(Span)
        if f.name not in ("hidden_states", "hidden_layers") and (value := getattr(row.span, f.name)) != f.default
    }
    return {
        "key": row.key, "prompt": row.prompt, "path": row.path, "max_tokens": row.max_tokens, "drawn": row.drawn, "cut": row.cut,
        "layers": row.layers, "span": span,
    }  # fmt: skip


def _row(line: Mapping[str, Any], hidden: NDArray[np.float32] | None) -> WrittenRow:
    span = dict(line["span"])
    span.update({name: tuple(_floats(span[name])) for name in _LISTS if name in span})
    span.update({name: tuple(span[name]) for name in _IDS if name in span})
    tokens = len(span.get("token_ids", ()))
    for name in _LISTS[:3]:
        if len(span.get(name, ())) not in (0, tokens):
            raise ValueError(f"{len(span[name])} {name} of {tokens} tokens")
    return WrittenRow(
        line["key"], line["prompt"], tuple(line["path"]), Span(**span, hidden_states=hidden), line["max_tokens"], line["drawn"],
        line["cut"], tuple(line["layers"]),
    )  # fmt: skip


def _numbers(values: Sequence[float]) -> Any:
    """In as few digits as bring back the very numbers: those of float32, under ``"f32"``, where that holds them."""
    exact = np.asarray(values, dtype=np.float64)
    short = exact.astype(np.float32)
    if not np.array_equal(short.astype(np.float64), exact):
        return [_json(value) for value in exact.tolist()]
    return {"f32": [_json(float(str(value))) for value in short]}


def _json(value: float) -> float | str:
    return value if np.isfinite(value) else repr(value)


def _floats(values: Any) -> list[float]:
    if isinstance(values, Mapping):
        return np.asarray([float(value) for value in values["f32"]], dtype=np.float32).astype(np.float64).tolist()  # type: ignore[no-any-return]
    return [float(value) for value in values]
