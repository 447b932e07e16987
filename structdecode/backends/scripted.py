"""A deterministic backend without a model: for tests, docs and dry runs. Not a mock: it keeps every law of `Session`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from structdecode.core.budget import Tally, Usage
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import UNMETERED, Account, ForcedText, GenerationRequest, Row, Session, Work
from structdecode.core.reading import short_repr
from structdecode.core.tags import close_span, to_put_in
from structdecode.core.types import Candidate, NextToken, Prompt, Span, Stage

Script = Callable[[Prompt, Candidate, Stage, int], str]
"""(prompt, prefix, stage, seed) -> the text that the "model" writes from there, up to its end-of-text."""


@dataclass(frozen=True)
class ScriptedBackend:
    """A "model" that writes what a function says. Its tokens are characters; every one has log-probability -1."""

    script: Script
    name: str = "scripted"

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return _open(self.script, prompt, set())

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return list(map(chr, _checked(ids)))


@asynccontextmanager
async def _open(script: Script, prompt: Prompt, seen: set[str]) -> AsyncIterator[Session]:
    yield _ScriptedSession(script, prompt, seen)


class _ScriptedSession:
    def __init__(self, script: Script, prompt: Prompt, seen: set[str]) -> None:
        self.script, self.prompt, self.seen = script, prompt, seen
        self.prefilled = False

    @property
    def resolution(self) -> float:
        return 0.0

    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        bill = Tally(account)
        self._prefill(bill)
        bill.charge(Usage(model_calls=1))
        spans = []
        for row in rows:
            written = "" if request.deadline_passed else self.script(self.prompt, row.prefix, request.stage, row.seed)
            spans.append(self._span(row, written, request))
            bill.charge(Usage(generated_tokens=len(spans[-1].token_ids)))
        return Work(spans, bill.usage)

    def _span(self, row: Row, written: str, request: GenerationRequest) -> Span:
        stage, stops = request.stage, request.stops
        ends = [(written.index(text) + len(text)) for text in (stage.end, *stops) if text and text in written]
        ended = min(ends, default=None)
        cut = (ended is None and len(written) > row.max_tokens) or (ended is not None and ended > row.max_tokens)
        written = written[: row.max_tokens] if cut else written[:ended]
        end_of_text = not cut and ended is None
        ids = _encoded(written)
        if row.watch is not None:
            row.watch(written.split(stage.end)[0] if stage.end else written)
        return close_span(
            stage, written, prefix=request.forced(row.prefix), open_spans=request.open_spans(row.prefix), stops=stops, end_of_text=end_of_text,
            token_ids=ids, log_probs=(-1.0,) * len(ids), certainties=(1.0,) * len(ids), seed=row.seed,
            proposal_log_probs=(-1.0,) * len(ids), leave_open=request.leave_open, encode=_encoded,
            prefix_log_probs=_of_prefix(row.prefix, request),
        )  # fmt: skip

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        bill = Tally(account)
        self._prefill(bill)
        spans = [self._forced(prefix, text, request) for prefix, text in zip(prefixes, texts, strict=True)]
        bill.admit(sum(len(span.token_ids) for span in spans))
        bill.charge(Usage(model_calls=1))
        return Work(spans, bill.usage)

    def _forced(self, prefix: Candidate, text: ForcedText, request: GenerationRequest) -> Span:
        stage = request.stage
        if isinstance(text, str):
            ids = _encoded("".join(to_put_in(text, stage, leave_open=request.leave_open)))
        else:
            ids = (*text.token_ids, *text.suffix_ids) if isinstance(text, Span) else _checked(text)
        return close_span(
            stage, "".join(map(chr, ids)), prefix=request.forced(prefix),
            open_spans=request.open_spans(prefix), stops=(), end_of_text=False,
            leave_open=request.leave_open, token_ids=ids, log_probs=(-1.0,) * len(ids),
            proposal_log_probs=(0.0,) * len(ids), certainties=(1.0,) * len(ids), seed=None, encode=_encoded,
            prefix_log_probs=_of_prefix(prefix, request),
        )  # fmt: skip

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        bill = Tally(account)
        self._prefill(bill)
        bill.charge(Usage(model_calls=1))
        texts = [self.script(self.prompt, prefix, request.stage, 0)[:1] for prefix in prefixes]
        return Work([[NextToken(ord(text), text, -1.0)] if text else [] for text in texts], bill.usage)

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        bill = Tally(account)
        self._prefill(bill)
        bill.charge(Usage(model_calls=1))
        return Work([[-1.0] * len(text) for text in continuations], bill.usage)

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return _open(self.script, prompt, self.seen)

    def release(self, candidates: Sequence[Candidate]) -> None:
        pass

    def _prefill(self, bill: Tally) -> None:
        if self.prefilled:
            bill.charge(Usage(cached_tokens=len(self.prompt.question)))
            return
        bill.admit(len(self.prompt.question))
        self.prefilled = True
        new = {picture.digest for picture in self.prompt.images} - self.seen
        self.seen |= new
        bill.charge(Usage(images_encoded=len(new)))


def _checked(ids: Sequence[int]) -> tuple[int, ...]:
    wrong = [i for i in ids if type(i) is not int or not 0 <= i <= sys.maxunicode]
    if wrong:
        raise ConfigError(f"{short_repr(wrong[0])} is no token of the model: ids go from 0 to {sys.maxunicode}")
    return tuple(ids)


def _of_prefix(prefix: Candidate, request: GenerationRequest) -> tuple[float, ...]:
    return (-1.0,) * len(request.forced(prefix)) if request.prefix_log_probs else ()


def _encoded(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))
