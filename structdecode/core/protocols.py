"""What a plug-in implements, and what it is handed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from structdecode.core.budget import Budget, Usage
from structdecode.core.errors import ConfigError
from structdecode.core.tags import forced_prefix
from structdecode.core.types import Candidate, NextToken, Path, Prompt, Ranked, Sampling, Schema, Score, Span, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Work(Generic[T]):
    """What a backend made, and what it cost in all: the sum of what it charged to the call's `Account`."""

    value: T
    usage: Usage


@dataclass(frozen=True)
class Row:
    """One generation of a batch: its seed, and the most tokens it may write (never more, whatever happens).

    Attributes:
        watch: called from any thread with what was just written, whole characters and nothing of what ends the stage;
            and with None where the row begins again, because the model was changed under it.
        path: its place in the search tree; empty for a verifier's question.
    """

    prefix: Candidate
    seed: int = 0
    max_tokens: int = 0
    watch: Callable[[str | None], None] | None = field(default=None, compare=False, repr=False)
    path: Path = ()


LogitsProcessor = Callable[[Any, Any], Any]
"""As transformers': (all tokens so far, the prompt's too [1, L], logits [1, V]) -> logits [1, V]. -inf forbids a token."""
MakeProcessor = Callable[[], LogitsProcessor]
"""Makes one for each row, so that one that keeps a state (a grammar's) sees its own row's tokens, one after the other."""

ForcedText = str | Span | Sequence[int]
"""Text to put in: as it is, with the end tag behind it where the stage is to be closed; a span's own tokens, from whatever
candidate; or token ids."""


@dataclass(frozen=True)
class GenerationRequest:
    """What all rows of one call have in common.

    Attributes:
        stage: what is written. sampling: how tokens are drawn.
        force_begin: whether the stage's begin tag is put there for the model; separator: what stands before that tag
            behind an earlier stage.
        stops: texts behind which a row ends too, its stage still open.
        leave_open: whether a row that ends at its ``max_tokens`` leaves its stage open.
        processors: each makes, for one row, what changes the logits that its tokens are drawn from.
        deadline: of `time.monotonic`, after which rows end where they are.
        prefix_log_probs: whether a span says the log-probabilities of the begin tag that was put there for the model.
        hidden_layers: of which layers a span says the hidden state at its last token.
    """

    stage: Stage
    sampling: Sampling
    force_begin: bool = True
    separator: str = ""
    stops: Sequence[str] = ()
    leave_open: bool = False
    processors: Sequence[MakeProcessor] = ()
    deadline: float | None = None
    prefix_log_probs: bool = False
    hidden_layers: Sequence[int] = ()

    def open_spans(self, prefix: Candidate) -> tuple[Span, ...]:
        """Those of a candidate that began the stage and left it open, so that it is continued."""
        return prefix.open_spans if prefix.open_stage == self.stage.name else ()

    def forced(self, prefix: Candidate) -> str:
        """The text that is put before what the model writes behind a candidate."""
        if not (self.force_begin and self.stage.begin) or self.open_spans(prefix):
            return ""
        return forced_prefix(self.stage, prefix.spans[-1] if prefix.spans else None, self.separator)

    @property
    def deadline_passed(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


class Account(Protocol):
    """Whom a call's work is charged to, as it arises and from any thread: a call that is given up is paid for, too."""

    def admit(self, tokens: int) -> None:
        """Charges prompt tokens right before they are computed; raises `BudgetSpent` where they may not be."""

    def charge(self, used: Usage) -> None:
        """Charges all else: generated tokens when a row ends, however it ends; the call, pictures, cached tokens."""


class Unmetered:
    """An `Account` without limits that keeps nothing."""

    def admit(self, tokens: int) -> None:
        pass

    def charge(self, used: Usage) -> None:
        pass


UNMETERED = Unmetered()


class Model(Protocol):
    """A metered handle on the model, for verifiers that ask it something."""

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        """``n`` free answers to a prompt of the verifier's own. Pictures seen before are not encoded again."""

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        """Log-probability of each token of each text, were it the answer; no generation."""

    async def read(
        self, prompt: Prompt, answers: Sequence[Sequence[ForcedText]], *, hidden_layers: Sequence[int] = ()
    ) -> list[list[Span]]:
        """Answers put behind a prompt piece by piece (teacher forcing): of each a span a piece, with the
        log-probabilities that the model gives its tokens and, where layers are named, their hidden states at its last
        token.

        Beginnings that answers share, or that were read earlier in the search, are computed once: a candidate that has
        grown costs its new piece. Pieces are texts or tuples of token ids; control tokens in a text stay text.

        Raises:
            ConfigError: the model has no such layer. PromptError: an answer does not fit into the model's context.
        """

    def on(self, backend: Backend) -> Model:
        """The same handle on a model of the verifier's own: metered and seeded as this one, pictures encoded once a
        search, its FLOPs counted (`Usage.flops`) where the backend tells what a token costs (``flops``, a
        `structdecode.core.flops.ModelCost`).
        """

    @property
    def resolution(self) -> float:
        """As `Decoder.resolution`."""

    def charge(self, usage: Usage) -> None:
        """For a verifier that asks a service, or runs a model that is no `Backend`: asked right before, with all that the
        work will cost: tokens, pictures and FLOPs of the model, dollars and requests of the service.

        Raises `BudgetSpent` where the search may not spend that; then the work is not to be done. Let it pass on.
        """


@runtime_checkable
class Verifier(Protocol):
    """Scores candidates. Plural in, plural out, same order; higher is better.

    `score` may be a plain method: it runs in a thread, so that limits of time hold whatever it does. An async one runs
    on the search's event loop, where it can ask the model; it must not block there (``time.sleep``, a synchronous
    request): it holds up all searches, and no limit can end it before it is done. Its scores are late then and do not
    count. `asyncio.to_thread` is for work that blocks.

    One that is an async context manager too (``__aenter__``, ``__aexit__``) is entered before it is first asked, once
    for a whole `decode_many` or comparison, and left when that ends: the place to load and to free what it runs on.
    """

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]: ...


class PairwiseJudge(Protocol):
    """Says which of two candidates is better; `tournaments` turn it into scores."""

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict: ...


@dataclass(frozen=True)
class Verdict:
    """``winner`` is 0 or 1, or None where the judge's reply cannot be read (never silently a win)."""

    winner: int | None
    reason: str = ""


class Decoder(Protocol):
    """All that a strategy may do. Metered, traced and seeded."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def root(self) -> Candidate:
        """The candidate that the search starts from: the empty one, unless it was started `at` another."""

    @property
    def rng(self) -> np.random.Generator: ...
    @property
    def remaining(self) -> Budget: ...
    @property
    def resolution(self) -> float:
        """Differences of the model's own numbers up to this (times the larger of 1 and their sizes) are noise: the
        last bits depend on what else is in the batch.
        """

    async def extend(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        *,
        n: int = 1,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
        leave_open: bool = False,
        processors: Sequence[MakeProcessor] = (),
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> list[Candidate]:
        """``n`` continuations of each candidate through a stage, grouped by parent, in order.

        With ``stops`` a continuation also ends behind the first of these texts, with ``leave_open`` at
        ``sampling.max_tokens``, its stage still open; the next `extend` of the same stage continues it.
        Where the budget is nearly spent fewer may come back.

        Args:
            processors: each makes, for one continuation, a logits processor with the signature of transformers'.
            prefix_log_probs: the spans say what the model gives a begin tag that is put there for it, too
                (`Span.prefix_log_probs`): a weight that is to be exact needs the probability of all that a candidate holds.
            hidden_layers: layers whose states at each span's last token are wanted (`Span.hidden_states`), as transformers
                numbers ``hidden_states``: 0 is the embeddings, -1 the last layer.

        Raises:
            ConfigError: the model has no such layer.
        """

    def as_finished(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        *,
        n: int = 1,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
        leave_open: bool = False,
        processors: Sequence[MakeProcessor] = (),
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> AsyncGenerator[Candidate, None]:
        """The same continuations as `extend`, each as it ends, in any order and each a call of its own.

        Closing it (``contextlib.aclosing``) cancels those that are left: they end with the next step, and what they
        drew is billed. Which one ends first depends on what else is decoded: a search that acts on the order is not
        the same in any company.
        """

    async def force(
        self,
        candidates: Sequence[Candidate],
        stage: Stage,
        texts: Sequence[ForcedText],
        *,
        leave_open: bool = False,
        prefix_log_probs: bool = False,
        hidden_layers: Sequence[int] = (),
    ) -> list[Candidate]:
        """Each candidate with its text as the stage (teacher forcing): written by nobody, with the log-probabilities
        that the model gives it. The tokens are billed as prefilled. Where begin tags are not forced the text has to
        hold its own. Control tokens in a text stay text.

        Raises:
            ConfigError: a text is empty or continues behind the stage's end, an id is none of the model's, or there is not
                one text for each candidate.
            PromptError: one does not fit into the model's context.
        """

    async def next_tokens(self, candidates: Sequence[Candidate], stage: Stage, k: int) -> list[list[NextToken]]:
        """Of each candidate the ``k`` likeliest tokens to come next in a stage (behind its begin tag where that is forced), best first."""

    def at(self, candidate: Candidate) -> Decoder:
        """This decoder with another root, for a search inside a search: ``strategy(schema.part(...), decoder.at(c))``.

        Its ``keep`` frees nothing that a sibling or the search outside has not let go; theirs frees what it left.
        Its ``rng`` depends on the candidate's place alone.
        """

    def view(self, prompt: Prompt) -> AbstractAsyncContextManager[Decoder]:
        """This decoder on another question or other pictures (a crop, a blank), with the same schema, budget and trace.

        Candidates of either can be extended, forced and scored in the other: their tokens are computed anew there.
        Pictures seen before are not encoded again. Leaving the context frees all that was kept for it.
        """

    async def score(self, verifier: Verifier, candidates: Sequence[Candidate]) -> list[Score]:
        """A score each, in order; a failing verifier gives unscored ones and a line in the trace.

        Twins (`structdecode.core.types.twins`) are scored once: the verifier sees the one with the lowest path.
        """

    def keep(self, candidates: Sequence[Candidate]) -> None:
        """Says that no other candidate made so far will be extended: their keys and values are freed."""


@runtime_checkable
class Strategy(Protocol):
    """Grows and chooses candidates. Returns them best first. May declare ``traits: ClassVar[StrategyTraits]``.

    It ranks candidates that its decoder's `extend` returned, as they are. It runs on the search's event loop and must
    not block there: only what awaits can be ended when the time is up.
    """

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]: ...


@dataclass(frozen=True)
class StrategyTraits:
    """What sweeps and reports want to know of a strategy; a strategy class has it as ``traits``.

    Attributes:
        width: the setting that holds the number of candidates (of a whole answer, or of each stage): it is swept as
            ``n``, and reports call its value N. None: there is no choice, the width is 1.
        independent: the candidates are that many independent samples of a whole answer, so that pass@k can be
            estimated from them for every k up to N.
        baseline: one path through the schema, sampled or greedy (``temperature``), that searches are held against.
    """

    width: str | None = None
    independent: bool = False
    baseline: bool = False


_USUAL_WIDTHS = ("n", "candidates")


def traits_of(kind: object) -> StrategyTraits:
    """What a strategy, or its class, declares; where it declares nothing, a setting ``n`` or ``candidates`` is its width.

    Raises:
        ConfigError: ``traits`` is something else, or names a width that is no setting of the class.
    """
    kind = kind if isinstance(kind, type) else type(kind)
    settings = {f.name for f in fields(kind)} if is_dataclass(kind) else set()
    traits = getattr(kind, "traits", None)
    if traits is None:
        return StrategyTraits(next((name for name in _USUAL_WIDTHS if name in settings), None))
    if not isinstance(traits, StrategyTraits):
        raise ConfigError(f"{kind.__qualname__}.traits must be StrategyTraits, not {traits!r}")
    if traits.width is not None and traits.width not in settings:
        known = ", ".join(sorted(settings)) or "none"
        raise ConfigError(f"{kind.__qualname__}.traits: width {traits.width!r} is none of its settings ({known})")
    return traits


class Session(Protocol):
    """A prompt in a model's memory. Closing it frees all that was kept for the prompt.

    One whose searches can be recorded (`structdecode.pools`) also has ``prompt_tokens``, a
    `structdecode.core.reuse.PromptTokens`, or None as long as nothing was asked of it.
    """

    @property
    def resolution(self) -> float:
        """See `Decoder.resolution`: what the model's precision asks for (`structdecode.core.resolution`), 0 where the same
        tokens always have the same numbers.
        """

    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        """One span a row, in order. Each row's result depends on its prefix and seed alone.

        A row stops at the stage's end tag, at one of ``stops``, at end-of-text, at its ``max_tokens``, or when the
        ``deadline`` passes; the last two finish with ``length`` and are closed by force.

        Cancelled, the rows leave their batch at the next step, and the call ends when they have: all that they drew is
        charged to ``account`` by then.
        """

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        """One span a prefix, in order, of the text given for it (not empty); see `Decoder.force`. ``sampling`` and
        ``stops`` of the request mean nothing here.
        """

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        """See `Decoder.next_tokens`."""

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        """Log-probability of each token of each text as the continuation of the bare prompt."""

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        """Another prompt that shares this session's pictures (by content), for a verifier's questions."""

    def release(self, candidates: Sequence[Candidate]) -> None:
        """Frees what is kept for candidates that the search will not extend again."""


class Backend(Protocol):
    """Runs models. One that has ``token_texts(ids)``, the text of each of an answer's tokens, can have them traced."""

    @property
    def name(self) -> str:
        """What is written into traces: the model's name or path."""

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]: ...
