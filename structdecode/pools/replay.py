"""A backend that writes what a pool's model wrote, and charges what that would have cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from structdecode.core.budget import Tally, Usage
from structdecode.core.errors import NotRecordedError
from structdecode.core.flops import ModelCost
from structdecode.core.protocols import UNMETERED, Account, ForcedText, GenerationRequest, Row, Session, Work
from structdecode.core.types import Candidate, NextToken, Prompt, Span
from structdecode.pools.accounts import PromptAccounts, SearchAccounts
from structdecode.pools.store import Pool
from structdecode.pools.tape import Tape, WrittenRow, forced_key, prompt_key, row_key, text_key


@dataclass(frozen=True)
class ReplayBackend:
    """A pool in the place of its model. Each search costs what it would have cost alone.

    A search that asks for what the pool does not hold ends in a `NotRecordedError` that says how much is missing at least:
    nothing is made up. Time is not recorded: a budget of seconds means the replay's own.
    """

    pool: Pool

    @classmethod
    def load(cls, path: str, **_: Any) -> ReplayBackend:
        """Reads a pool's directory. How a model would be loaded (device, dtype and so on) means nothing here."""
        return cls(Pool.open(path))

    @property
    def name(self) -> str:
        return str(self.pool.model["name"])

    @property
    def identity(self) -> dict[str, Any]:
        """The recorded model's, so that a replay's results are known by the same keys as the run's."""
        return dict(self.pool.model)

    @property
    def flops(self) -> ModelCost | None:
        return self.pool.cost

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self._open(prompt)

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[Session]:
        search = _Search(self.pool.tapes(prompt_key(prompt)))
        try:
            yield ReplaySession(search, prompt)
        except Exception as error:  # whatever a verifier or strategy made of it: what is missing is said
            if search.missing:
                raise NotRecordedError(search.missing) from error
            raise
        if search.missing:
            raise NotRecordedError(search.missing)


@dataclass
class _Search:
    """What is recorded for one prompt, and what was asked for beyond it."""

    tapes: Sequence[Tape]
    accounts: SearchAccounts = field(default_factory=SearchAccounts)
    missing: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.resolution = max((tape.resolution for tape in self.tapes), default=0.0)
        self.rows: dict[str, list[WrittenRow]] = defaultdict(list)
        for tape in self.tapes:
            for row in tape.rows:
                self.rows[row.key].append(row)
        self.prompts = {key: tokens for tape in self.tapes for key, tokens in tape.prompts.items()}
        self.texts = {key: found for tape in self.tapes for key, found in tape.texts.items()}

    def lacks(self, what: str, count: int) -> NotRecordedError:
        self.missing[what] += count
        return NotRecordedError({what: count})


class ReplaySession:
    """See `structdecode.core.protocols.Session`."""

    def __init__(self, search: _Search, prompt: Prompt) -> None:
        self._search, self._key = search, prompt_key(prompt)
        tokens = search.prompts.get(self._key)
        images = tuple(picture.digest for picture in prompt.images)
        self._accounts = None if tokens is None else PromptAccounts(search.accounts, tokens, images)

    @property
    def resolution(self) -> float:
        return self._search.resolution

    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        bill = Tally(account)
        self._read(bill)
        what = f"spans of {request.stage.name}" + (" with a logits processor" if request.processors else "")
        found = self._all(what, [None if request.processors else self._written(row, request) for row in rows])
        accounts = self._ready()
        prefixes = [row.prefix for row in rows]
        self._begin(prefixes, found, request, bill)
        bill.charge(Usage(model_calls=1))
        for prefix, row in zip(prefixes, found, strict=True):
            bill.charge(Usage(generated_tokens=row.drawn))
            accounts.written((*prefix.token_ids, *row.span.prefix_ids), row.span.token_ids)
        self._ends(prefixes, found, request, bill)
        return Work([row.span_for(request, asked.seed) for row, asked in zip(found, rows, strict=True)], bill.usage)

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        bill = Tally(account)
        self._read(bill)
        keys = [forced_key(self._key, p, text, request) for p, text in zip(prefixes, texts, strict=True)]
        found = self._all(f"texts put in for {request.stage.name}", [self._of(key, request) for key in keys])
        accounts = self._ready()
        self._begin(prefixes, found, request, bill)
        bill.admit(sum(row.drawn for row in found))
        bill.charge(Usage(model_calls=1))
        for prefix, row in zip(prefixes, found, strict=True):
            accounts.put_in((*prefix.token_ids, *row.span.prefix_ids), row.span.token_ids)
        self._ends(prefixes, found, request, bill)
        return Work([row.span_for(request) for row in found], bill.usage)

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        raise self._search.lacks("lists of next tokens, which are not recorded", len(prefixes))

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        bill = Tally(account)
        self._read(bill)
        kept = [self._search.texts.get(text_key(self._key, text)) for text in continuations]
        found = self._all("log-probabilities of texts", kept)
        bill.admit(sum(len(values) - 1 for values in found if len(values) > 1))
        bill.charge(Usage(model_calls=1))
        return Work([list(values) for values in found], bill.usage)

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self._open(prompt)

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[Session]:
        yield ReplaySession(self._search, prompt)

    def release(self, candidates: Sequence[Candidate]) -> None:
        if self._accounts is not None:
            self._accounts.release(candidates)

    # ------------------------------------------------------------------ what is recorded
    def _written(self, row: Row, request: GenerationRequest) -> WrittenRow | None:
        return self._of(row_key(self._key, row, request), request, row.max_tokens)

    def _of(self, key: str, request: GenerationRequest, max_tokens: int | None = None) -> WrittenRow | None:
        """A row of this key that ends as it would have with this limit and has all that is asked for."""
        fitting = (row for row in self._search.rows.get(key, ()) if max_tokens is None or row.fits(max_tokens))
        return next((row for row in fitting if row.answers(request)), None)

    def _all(self, what: str, found: Sequence[Any]) -> list[Any]:
        missing = sum(each is None for each in found)
        if missing:
            raise self._search.lacks(what, missing)
        return list(found)

    def _read(self, bill: Tally) -> None:
        """Charges the prompt, where it is known: a budget may end there, before what was asked behind it."""
        if self._accounts is not None:
            self._accounts.read(bill)

    def _ready(self) -> PromptAccounts:
        if self._accounts is None:
            raise self._search.lacks("tokens of a prompt", 1)
        return self._accounts

    def _begin(
        self, prefixes: Sequence[Candidate], found: Sequence[WrittenRow], request: GenerationRequest, bill: Tally
    ) -> None:
        starts = [(prefix, row.span.prefix_ids) for prefix, row in zip(prefixes, found, strict=True)]
        self._ready().begin(starts, bill, prefix_log_probs=request.prefix_log_probs)

    def _ends(
        self, prefixes: Sequence[Candidate], found: Sequence[WrittenRow], request: GenerationRequest, bill: Tally
    ) -> None:
        """Charges the hidden states behind what was written; behind a text that was put in whole they are there."""
        if request.hidden_layers:
            spans = [(prefix, row.span) for prefix, row in zip(prefixes, found, strict=True)]
            ends = [prefix.extended(span, 0) for prefix, span in spans if span.seed is not None or span.suffix_ids]
            self._ready().end_states(ends, bill)
