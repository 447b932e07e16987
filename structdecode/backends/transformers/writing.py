"""One row while it is being written: what was drawn, and whether it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from structdecode.backends.transformers.constraints import Constraint
from structdecode.backends.transformers.encoding import Codec
from structdecode.protocols import GenerationRequest, Row
from structdecode.tags import close_span, stopped
from structdecode.types import Candidate, Span

_WINDOW_SLACK = 8
"""Tokens looked at beyond the longest stop's length in characters when looking for a stop."""


@dataclass
class Writing:
    """A row's tokens so far. ``wanted`` is the whole answer up to where the model goes on: prefix and forced text."""

    row: Row
    request: GenerationRequest
    codec: Codec
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    end_of_text: bool = False
    done: bool = False
    sampled: int = 0

    def __post_init__(self) -> None:
        self.prefix = self.request.forced(self.row.prefix)
        self.prefix_ids = self.codec.encode(self.prefix) if self.prefix else ()
        self.wanted: tuple[int, ...] = (*self.row.prefix.token_ids, *self.prefix_ids)
        self._stops = tuple(text for text in (self.request.stage.end, *self.request.stops) if text)

    def restart(self) -> None:
        """Forgets what was written; the same seed writes it again."""
        self.ids, self.log_probs, self.certainties = [], [], []
        self.end_of_text = self.done = False
        self.sampled = 0

    def take(self, token: int, log_prob: float, certainty: float) -> None:
        """Books one drawn token."""
        self.sampled += 1
        if token in self.codec.end_of_text:
            self.done = self.end_of_text = True
            return
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.certainties.append(certainty)
        self.done = self._at_stop(token)

    def _at_stop(self, token: int) -> bool:
        if not any(self.codec.may_end(token, stop) for stop in self._stops):
            return False
        window = max(map(len, self._stops)) + _WINDOW_SLACK
        stage, stops = self.request.stage, self.request.stops
        if not stopped(self.codec.decode(self.ids[-window:]), stage, stops):
            return False
        return stopped(self.codec.decode(self.ids), stage, stops)

    def span(self) -> Span:
        request, prefix = self.request, self.row.prefix
        going_on = prefix.spans[-1] if prefix.open_stage == request.stage.name else None
        return close_span(
            request.stage, self._written(going_on), prefix=self.prefix,
            going_on=going_on, stops=request.stops, end_of_text=self.end_of_text,
            token_ids=tuple(self.ids), log_probs=tuple(self.log_probs), certainties=tuple(self.certainties),
            seed=self.row.seed, encode=self.codec.encode,
        )  # fmt: skip

    def _written(self, going_on: Span | None) -> str:
        """The model's text. Behind an unfinished stage it is decoded with what is before it: a tokenizer may keep the
        space between two sentences in neither's own tokens.
        """
        text = self.codec.decode(self.ids)
        if going_on is None:
            return text
        before = self.codec.decode(going_on.token_ids)
        both = self.codec.decode((*going_on.token_ids, *self.ids))
        return both[len(before) :] if both.startswith(before) else text


def take(writings: Sequence[Writing], tokens: Tensor, log_probs: Tensor, certainties: Tensor) -> None:
    """Books some steps' tokens in the rows, up to where each is done. [steps, B] each"""
    for step in zip(tokens.tolist(), log_probs.tolist(), certainties.tolist(), strict=True):
        for writing, *drawn in zip(writings, *step, strict=True):
            if not writing.done:
                writing.take(*drawn)


def kept_as(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """Token ids under which a session may have kept an answer, longest first.

    What was put behind the model's own tokens to close a stage was never fed: the part without it counts too.
    """
    ids = candidate.token_ids
    yield ids
    if suffix := len(candidate.spans[-1].suffix_ids) if candidate.spans else 0:
        yield ids[:-suffix]


def known_beginnings(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """The same of an answer and of its parts that end with a stage."""
    for spans in range(len(candidate.spans), 0, -1):
        yield from kept_as(Candidate(candidate.spans[:spans]))
