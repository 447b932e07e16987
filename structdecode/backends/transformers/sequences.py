"""One row while it is being written: what was drawn, and whether it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from structdecode.backends.transformers.constraints import Constraint
from structdecode.backends.transformers.encoding import Codec
from structdecode.backends.transformers.sampling import token_statistics
from structdecode.backends.transformers.streaming import TextStream
from structdecode.core.border import said
from structdecode.core.errors import StrategyError
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.tags import close_span, stopped
from structdecode.core.types import Candidate, Span

_WINDOW_SLACK = 8
"""Tokens looked at beyond the longest stop's length in characters when looking for a stop."""


@dataclass
class TokenSequence:
    """A row's tokens so far, behind a prompt's [1, L].

    ``wanted`` is the whole answer up to where the model continues: prefix and forced text.
    """

    row: Row
    request: GenerationRequest
    codec: Codec
    prompt: Tensor
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    proposals: list[float] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    end_of_text: bool = False
    done: bool = False
    forced: bool = False
    sampled: int = 0
    error: Exception | None = None
    prefix_log_probs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.prefix = self.request.forced(self.row.prefix)
        self.prefix_ids = self.codec.encode(self.prefix) if self.prefix else ()
        self.wanted: tuple[int, ...] = (*self.row.prefix.token_ids, *self.prefix_ids)
        self._open = self.request.open_spans(self.row.prefix)
        self._pending = self._open[-1].pending if self._open else ""
        self.processors = [make() for make in self.request.processors]
        self._stops = tuple(text for text in (self.request.stage.end, *self.request.stops) if text)
        self._stream = self._listened_to()

    @property
    def wants_prefix(self) -> bool:
        """Whether the log-probabilities of the begin tag are asked for, and there is one."""
        return self.request.prefix_log_probs and bool(self.prefix_ids)

    def behind_prefix(self, before: Tensor | None, logits: Tensor) -> tuple[float, ...]:
        """The begin tag's log-probabilities from the logits behind each of the last tokens up to its end. [T, V]

        Args:
            before: [V], the logits in front of these tokens; not needed where they begin before the tag.
        """
        count = len(self.prefix_ids)
        rows = logits if before is None else torch.cat([before[None], logits])
        told = token_statistics(rows[-count - 1 : -1].float(), torch.tensor(self.prefix_ids, device=rows.device))[0]
        return tuple(told.tolist())

    def may_end(self, end: Candidate, prompt: int) -> bool:
        """Whether the model's context has room for all of an answer, which is something."""
        return 0 < len(end.token_ids) <= self.codec.max_length - prompt

    def restart(self) -> None:
        """Forgets what was written; the same seed writes it again."""
        self.ids, self.log_probs, self.proposals, self.certainties = [], [], [], []
        self.processors = [make() for make in self.request.processors]
        self.end_of_text = self.done = False
        self.sampled = 0
        if self._stream is not None:
            self._stream.restart()

    def _listened_to(self) -> TextStream | None:
        if self.row.watch is None:
            return None
        ends = (self.request.stage.end,) if self.request.stage.end else ()
        return TextStream(self.codec.decode, ends, self.row.watch, self._open_ids(), self._pending)

    def _open_ids(self) -> list[int]:
        return [token for span in self._open for token in span.token_ids]

    @property
    def free(self) -> bool:
        """Whether what may be drawn does not depend on what was."""
        return self.constraint is None and not self.processors

    def tokens(self, device: torch.device) -> Tensor:
        """The prompt's, and the answer's so far. [1, L]"""
        own = torch.tensor([[*self.wanted, *self.ids]], dtype=torch.long, device=device)
        return torch.cat([self.prompt.to(device), own], dim=1)

    def processed(self, logits: Tensor) -> Tensor:
        """What the request's processors make of the logits [1, V]; one that fails ends this row alone (``error``)."""
        try:
            for processor in self.processors:
                found = processor(self.tokens(logits.device), logits)
                if not isinstance(found, Tensor) or found.shape != logits.shape:
                    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    raise ValueError(f"it gave back {shape}, not {tuple(logits.shape)}")
                if found.isnan().any() or not found.isfinite().any() or found.isposinf().any():
                    raise ValueError("it left no token that may be drawn, or NaN or infinite logits")
                logits = found
        except Exception as error:  # a plug-in's own
            self.error, self.done = StrategyError(f"a logits processor failed: {said(error)}"), True
        return logits

    def put(self, ids: Sequence[int], log_probs: Tensor, certainties: Tensor) -> None:
        """Takes tokens that nobody drew. [T] each"""
        ended = ids[-1] in self.codec.end_of_text
        count = len(ids) - ended
        self.ids, self.proposals = list(ids[:count]), [0.0] * count
        self.log_probs, self.certainties = log_probs[:count].tolist(), certainties[:count].tolist()
        self.done, self.end_of_text, self.forced = True, ended, True

    def take(self, token: int, proposal: float, log_prob: float, certainty: float) -> None:
        """Books one drawn token."""
        self.sampled += 1
        if token in self.codec.end_of_text:
            self.done = self.end_of_text = True
            return
        if self._stream is not None:
            self._stream.add(token)
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.proposals.append(proposal)
        self.certainties.append(certainty)
        self.done = self._at_stop(token)

    def _at_stop(self, token: int) -> bool:
        if not any(self.codec.may_end(token, stop) for stop in self._stops):
            return False
        window = max(map(len, self._stops)) + _WINDOW_SLACK
        stage, stops = self.request.stage, self.request.stops
        if not stopped(self._pending + self.codec.decode(self.ids[-window:]), stage, stops):
            return False
        return stopped(self._pending + self.codec.decode(self.ids), stage, stops)

    def span(self) -> Span:
        if self.error is not None:
            raise self.error
        request = self.request
        span = close_span(
            request.stage, self._written(), prefix=self.prefix, open_spans=self._open,
            stops=request.stops, end_of_text=self.end_of_text, leave_open=request.leave_open,
            token_ids=tuple(self.ids), log_probs=tuple(self.log_probs), proposal_log_probs=tuple(self.proposals),
            certainties=tuple(self.certainties), seed=None if self.forced else self.row.seed, encode=self.codec.encode,
            prefix_log_probs=self.prefix_log_probs,
        )  # fmt: skip
        if self._stream is not None and not span.pending:
            self._stream.end()
        return span

    def _written(self) -> str:
        """The model's text. Behind an unfinished stage it is decoded with what is before it: a tokenizer may keep the
        space between two sentences in neither's own tokens, and a letter may be in the tokens of both.
        """
        open_ids = self._open_ids()
        before = _whole_letters(self.codec.decode(open_ids)) if open_ids else ""
        both = self.codec.decode((*open_ids, *self.ids))
        text = both[len(before) :] if both.startswith(before) else self.codec.decode(self.ids)
        return _whole_letters(text) if self.request.leave_open and not self.end_of_text else text


def _whole_letters(text: str) -> str:
    """Without a last letter of which tokens are missing: a decoder shows that as a replacement character."""
    return text.rstrip("\ufffd")


def take(
    sequences: Sequence[TokenSequence], tokens: Tensor, proposals: Tensor, log_probs: Tensor, certainties: Tensor
) -> None:
    """Books some steps' tokens in the rows, up to where each is done. [steps, B] each"""
    for step in zip(*(each.tolist() for each in (tokens, proposals, log_probs, certainties)), strict=True):
        for sequence, *drawn in zip(sequences, *step, strict=True):
            if not sequence.done:
                sequence.take(*drawn)
