"""The nouns of staged decoding. Everything here is an immutable value; what follows from it is a property."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from structdecode.core.errors import ConfigError, PromptError, SchemaError
from structdecode.core.images import ImageSource, Picture, load_picture
from structdecode.core.reading import cut
from structdecode.core.settings import check_settings
from structdecode.core.visible import visible_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "invalid"]
"""``stop``: ended as the schema asks · ``length``: cut at a token limit and closed by force, or left
open where that was asked for · ``invalid``: a tag is missing or repeated, or a visible stage's text holds another stage."""

Path = tuple[int, ...]
"""A candidate's place in the search tree: the number of each choice from the root on."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, with the meanings of transformers: temperature, then top-k, then top-p.

    ``temperature=0`` is greedy; ``top_k=0`` and ``top_p=1`` switch the filters off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        check_settings(self, "sampling")
        if self.temperature < 0:
            raise ConfigError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (off) or more, not {self.top_k}")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, not {self.max_tokens}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Stage:
    """One tag-delimited span of an answer.

    Attributes:
        begin, end: the tags; both empty for an open stage, which runs to the end of the text.
        visible: whether its text is part of `Result.answer`.
        optional: whether an answer without it is still well formed.
        needs_image: left out when the prompt has no picture.
    """

    name: str
    begin: str = ""
    end: str = ""
    sampling: Sampling = Sampling()
    visible: bool = True
    optional: bool = False
    needs_image: bool = False

    @classmethod
    def tagged(cls, name: str, **fields: Any) -> Stage:
        """A stage between ``<NAME>`` and ``</NAME>``."""
        return cls(name, f"<{name}>", f"</{name}>", **fields)


@dataclass(frozen=True)
class Schema:
    """An instruction and the stages of an answer, in order.

    Attributes:
        instruction: what the model is told; ``{question}`` stands for the question.
        force_begin: whether a stage's begin tag is put there for the model (else the model has to write it).
        separator: what stands between one stage's end tag and the next one's begin tag where tags are forced.
        whole: whether answers are read from it, so that a stage has to be visible; not so of a `part`.
    """

    name: str
    stages: tuple[Stage, ...]
    instruction: str = "{question}"
    force_begin: bool = True
    separator: str = "\n\n"
    whole: bool = True

    def __post_init__(self) -> None:
        if not self.stages:
            raise SchemaError(f"schema {self.name!r} has no stages")
        if "{question}" not in self.instruction:
            raise SchemaError(f"schema {self.name!r}: the instruction lacks '{{question}}'")
        names = [stage.name for stage in self.stages]
        tags = [tag for stage in self.stages for tag in (stage.begin, stage.end) if tag]
        for what, values in (("stage name", names), ("tag", tags)):
            twice = next((v for v in values if values.count(v) > 1), None)
            if twice is not None:
                raise SchemaError(f"schema {self.name!r}: {what} {twice!r} is used twice")
        for tag in tags:
            inside = next((other for other in tags if other != tag and tag in other), None)
            if inside is not None:
                raise SchemaError(f"schema {self.name!r}: tag {tag!r} is part of tag {inside!r}")
        if self.whole and not any(stage.visible for stage in self.stages):
            raise SchemaError(f"schema {self.name!r} has no visible stage: its answers would be empty")
        for stage in self.stages[:-1]:
            if not stage.end:
                raise SchemaError(f"schema {self.name!r}: stage {stage.name!r} has no end tag and is not the last")

    def part(self, *names: str) -> Schema:
        """These stages alone, in their order, for a search inside a search: see `Decoder.at`.

        Raises:
            SchemaError: one is not there.
        """
        unknown = next((name for name in names if name not in {stage.name for stage in self.stages}), None)
        if unknown is not None or not names:
            known = ", ".join(stage.name for stage in self.stages)
            raise SchemaError(f"schema {self.name!r} has no stage {unknown!r}; it has {known}")
        return replace(self, stages=tuple(stage for stage in self.stages if stage.name in names), whole=False)

    def behind(self, candidate: Candidate) -> Schema:
        """The stages that a candidate does not have yet, beginning with the one that it left open, for `Decoder.at`.

        Raises:
            SchemaError: it has all of them.
        """
        done = {span.stage for span in candidate.spans if span.closed}
        return self.part(*(stage.name for stage in self.stages if stage.name not in done))

    def ask(self, prompt: Prompt) -> Prompt:
        """The prompt with this schema's instruction around its question."""
        return replace(prompt, question=self.instruction.replace("{question}", prompt.question))

    def for_prompt(self, prompt: Prompt) -> Schema:
        """This schema without the stages that need a picture, where there is none."""
        if prompt.images:
            return self
        return replace(self, stages=tuple(stage for stage in self.stages if not stage.needs_image))


@dataclass(frozen=True)
class Message:
    """An earlier turn of the chat."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(frozen=True, init=False)
class Prompt:
    """A question, its pictures and the chat before it. Pictures belong to the first user turn.

    Attributes:
        options: the texts of a multiple-choice question's options, A first. ``question`` has to show them: these, like
            ``answer_kind``, are not shown to the model. They tell a vote which answers are the same.
        answer_kind: what form the answer has, as in `structdecode.matching.types.Kind`; None where that is unknown.
        images_at: before which character of that turn's text the pictures stand.

    Raises:
        PromptError: the question is empty.
        ImageError: a picture cannot be used.
    """

    question: str
    images: tuple[Picture, ...] = ()
    history: tuple[Message, ...] = ()
    options: tuple[str, ...] = ()
    answer_kind: str | None = None
    images_at: int = 0

    def __init__(
        self,
        question: str,
        images: Sequence[ImageSource | Picture] | ImageSource | Picture = (),
        history: Sequence[Message] = (),
        *,
        options: Sequence[str] = (),
        answer_kind: str | None = None,
        images_at: int = 0,
    ) -> None:
        if not question.strip():
            raise PromptError("the question is empty")
        sources = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else (images,)
        object.__setattr__(self, "question", question)
        object.__setattr__(self, "images", tuple(load_picture(source) for source in sources))
        object.__setattr__(self, "history", tuple(history))
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "answer_kind", answer_kind)
        object.__setattr__(self, "images_at", images_at)


@dataclass(frozen=True)
class Span:
    """What the model wrote for one stage, or for one sentence of it.

    Attributes:
        text: the body, without tags and without surrounding white space.
        token_ids: what the model wrote, tags included; ``prefix_ids`` and ``suffix_ids`` were put around it.
        log_probs: natural log-probability of each of ``token_ids`` under the model itself (temperature 1,
            nothing filtered).
        certainties: for each of ``token_ids``, KL(uniform || model) in nats (self-certainty, arXiv 2502.18581).
        raw: the exact text of all three id runs.
        closed: False while the stage continues in a next span.
        overshoot: text behind the end tag, where the last token holds more than the tag.
        pending: the end of ``raw``, where that may be the beginning of the end tag. It is no part of ``text``: the span
            that continues the stage decides.
        lead: the white space between the stage's text so far and this span's, where an earlier span began the stage.
        proposal_log_probs: natural log-probability of each of ``token_ids`` under what it was drawn from (temperature,
            top-k, top-p, and what may not be drawn at all); 0 for a token that was put in, and for a greedy one.
        prefix_log_probs: natural log-probability of each of ``prefix_ids`` under the model itself, where it was asked for
            (`Decoder.extend`), else empty.
        hidden_states: float32 [layers, hidden size], the states of the layers that were asked for (`Decoder.extend`) at
            the span's last token, its tag included; None where none were, where the backend has none, or where that
            token does not fit into the context any more. No part of what makes two spans equal.
        hidden_layers: which layers these are, numbered as they were asked for; empty where there are none.
    """

    stage: str
    text: str
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    certainties: tuple[float, ...] = ()
    finish_reason: FinishReason = "stop"
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    raw: str = ""
    closed: bool = True
    overshoot: str = ""
    pending: str = ""
    seed: int | None = None
    lead: str = " "
    proposal_log_probs: tuple[float, ...] = ()
    prefix_log_probs: tuple[float, ...] = ()
    hidden_states: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    hidden_layers: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def all_ids(self) -> tuple[int, ...]:
        return self.prefix_ids + self.token_ids + self.suffix_ids


@dataclass(frozen=True)
class NextToken:
    """A token that may come next: its id, its text alone, and its natural log-probability under the model itself."""

    id: int
    text: str
    log_prob: float


@dataclass(frozen=True, repr=False)
class Candidate:
    """A partial or complete answer: a chain of spans. Extending makes a new one."""

    spans: tuple[Span, ...] = ()
    path: Path = ()

    def __repr__(self) -> str:
        return f"<Candidate {'.'.join(map(str, self.path)) or 'root'}: {self.tokens} tokens, {cut(self.text, 60)!r}>"

    def _repr_html_(self) -> str:
        from structdecode.core.view import candidate_fragment

        return candidate_fragment(self)

    def extended(self, span: Span, choice: int) -> Candidate:
        return Candidate((*self.spans, span), (*self.path, choice))

    @property
    def stages(self) -> dict[str, str]:
        """Text by stage name, the spans of one stage joined. A copy: writing into it changes nothing."""
        return dict(self._stages)

    @cached_property
    def _stages(self) -> Mapping[str, str]:
        return join_spans((span.stage, span.lead, span.text) for span in self.spans)

    @cached_property
    def content(self) -> tuple[object, ...]:
        """What was written, whatever its path and statistics: candidates of equal content are twins (see `rank`)."""
        return tuple((s.stage, s.all_ids, s.raw, s.text, s.closed, s.finish_reason) for s in self.spans)

    @property
    def text(self) -> str:
        """The whole answer with its tags, as the model would have written it."""
        return "".join(span.raw for span in self.spans).strip()

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(i for span in self.spans for i in span.all_ids)

    @property
    def tokens(self) -> int:
        """How many tokens were written or put in as text, the tags that were put around it not counted."""
        return sum(len(span.token_ids) for span in self.spans)

    @property
    def log_prob(self) -> float:
        """The sum of the log-probabilities of these tokens under the model itself; 0 where a backend has none."""
        return math.fsum(p for span in self.spans for p in span.log_probs)

    @property
    def last_stage(self) -> str:
        return self.spans[-1].stage if self.spans else ""

    @property
    def open_stage(self) -> str | None:
        """The stage that the next span continues, if the last one was not closed."""
        return self.spans[-1].stage if self.spans and not self.spans[-1].closed else None

    @property
    def open_spans(self) -> tuple[Span, ...]:
        """The spans of the stage that is still open, in order; none where the last one is closed."""
        stage, start = self.open_stage, len(self.spans)
        while start and self.spans[start - 1].stage == stage and not self.spans[start - 1].closed:
            start -= 1
        return self.spans[start:]

    @property
    def goes_on(self) -> bool:
        """Whether the last span continues a stage that the one before it left open."""
        return len(self.spans) > 1 and not self.spans[-2].closed and self.spans[-2].stage == self.spans[-1].stage

    @property
    def valid(self) -> bool:
        """Whether no stage is malformed."""
        return all(span.finish_reason != "invalid" for span in self.spans)

    def finished(self, schema: Schema) -> bool:
        """Whether every stage that is not optional is there and closed, in the schema's order and once."""
        done = {span.stage for span in self.spans if span.closed}
        return all(stage.name in done or stage.optional for stage in schema.stages) and self.in_order(schema)

    def in_order(self, schema: Schema) -> bool:
        """Whether the stages stand in the schema's order, each once. Stages that are none of the schema's are passed over."""
        known = {stage.name: at for at, stage in enumerate(schema.stages)}
        begun = [
            known[span.stage] for at, span in enumerate(self.spans) if span.stage in known and not self._goes_on(at)
        ]
        return all(before < after for before, after in pairwise(begun))

    def _goes_on(self, at: int) -> bool:
        before = self.spans[at - 1] if at else None
        return before is not None and not before.closed and before.stage == self.spans[at].stage

    def answer(self, schema: Schema) -> str:
        """The text of the visible stages, without what hidden ones have written into them and without stray tags."""
        return visible_text(schema, self._stages)


def join_spans(spans: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Text by stage name from spans given as (stage, lead, text), in order."""
    texts: dict[str, str] = {}
    for stage, lead, text in spans:
        texts[stage] = f"{texts[stage]}{lead}{text}".strip() if stage in texts else text
    return texts


@dataclass(frozen=True)
class Score:
    """A verifier's word on a candidate; higher is better. ``value`` is None where there is none, which is not 0.

    Attributes:
        resolution: the largest difference to another value that is noise: times the larger of 1 and the two values'
            sizes. None: the verifier does not say, and the decoder puts in what its backend's precision asks for
            (`Decoder.resolution`). 0 for values that are exact, such as counts and rules about a text.
        fallback: where there is no value, the score of the nearest ancestor that has one: the decoder puts it in, and
            candidates without a value are ranked by it among themselves.
    """

    value: float | None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    resolution: float | None = None
    fallback: Score | None = None

    @classmethod
    def unscored(cls, reason: str, fallback: Score | None = None) -> Score:
        return cls(None, reason, fallback=fallback)

    @property
    def scored(self) -> bool:
        return self.value is not None

    def ties(self, other: Score) -> bool:
        """Whether the two differ by no more than noise; of absent values their fallbacks."""
        if self.value is None or other.value is None:
            mine, theirs = self.fallback, other.fallback
            both = self.value is other.value
            return both and (mine.ties(theirs) if mine is not None and theirs is not None else mine is theirs)
        scale = max(1.0, abs(self.value), abs(other.value))
        return abs(self.value - other.value) <= max(self.resolution or 0.0, other.resolution or 0.0) * scale

    def reaches(self, threshold: float) -> bool:
        """Whether the value is at least ``threshold``, or below it by no more than noise; an absent one never."""
        return self.value is not None and (self.value >= threshold or self.ties(Score(threshold)))


@dataclass(frozen=True)
class Ranked:
    """A candidate and the score it was ranked by.

    Attributes:
        paths: of all draws that wrote just this, lowest first; the candidate's own is the first. Votes, sampling
            weights and pass@N count each.
    """

    candidate: Candidate
    score: Score
    paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.paths:
            object.__setattr__(self, "paths", (self.candidate.path,))

    @property
    def draws(self) -> int:
        return len(self.paths)


def twins(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Indices of candidates with equal content (equal token ids below one root), each group by path, lowest first.

    Groups are in the order of their first members.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, candidate in enumerate(candidates):
        groups.setdefault(candidate.content, []).append(index)
    return [sorted(group, key=lambda index: candidates[index].path) for group in groups.values()]


def rank(candidates: Sequence[Candidate], scores: Sequence[Score], then: Sequence[Score] = ()) -> list[Ranked]:
    """Best first: well-formed before malformed, scored before unscored, then by value, then by path.

    Noise never decides. Twins are one entry, which the lowest path stands for, with that path's score. Of different
    candidates, those within the scores' resolution of the best one left are tied: ``then`` (a second score each, in
    the order of ``candidates``) decides among them by the same rule, and the path where that ties too.
    """
    if len(scores) != len(candidates) or (then and len(then) != len(candidates)):
        raise ValueError("rank: a score for each candidate")
    groups = twins(candidates)
    by_path = sorted(groups, key=lambda group: candidates[group[0]].path)
    best_first: list[list[int]] = []
    for valid, scored in ((True, True), (True, False), (False, True), (False, False)):
        alike = [g for g in by_path if candidates[g[0]].valid == valid and scores[g[0]].scored == scored]
        for tied in _tied(alike, scores):
            best_first += [group for level in _tied(tied, then) for group in level] if then else tied
    return [Ranked(candidates[g[0]], scores[g[0]], tuple(candidates[i].path for i in g)) for g in best_first]


def _height(score: Score) -> float:
    if score.value is not None:
        return score.value
    return -math.inf if score.fallback is None else _height(score.fallback)


def _tied(groups: Sequence[list[int]], scores: Sequence[Score]) -> Iterator[list[list[int]]]:
    """Those that tie with the best, then those that tie with the best of the rest, and so on; each in given order."""
    left = list(groups)
    while left:
        best = max((scores[g[0]] for g in left), key=_height)
        yield [g for g in left if scores[g[0]].ties(best)]
        left = [g for g in left if not scores[g[0]].ties(best)]
