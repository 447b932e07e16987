"""How a released reward model is asked and read: a file's content. Light: it is read before torch is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from structdecode.core.declared import read_declared
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.reading import parse_yaml, read_document

Aggregate = Literal["mean", "last", "min", "product"]
Images = Literal["first", "last", "none"]
PICTURES = "{images}"
"""Where pictures stand inside a text."""


def check_pattern(pattern: str, what: str) -> None:
    """Raises `ConfigError` unless it is a regular expression of one group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"{what} {pattern!r}: {error}") from None
    if groups != 1:
        raise ConfigError(f"{what} {pattern!r} has {groups} groups: one is read")


@dataclass(frozen=True)
class TokenRead:
    """The value is the expected one over labels: softmax over their log-probabilities where the prompt ends.

    Attributes:
        labels: what each label is worth: ``{"+": 1, "-": 0}`` gives the probability of ``+``. Of one with several
            tokens their log-probabilities are added up.
        forced: text that the reply is made to begin with.
    """

    labels: Mapping[str, float]
    forced: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ConfigError(f"tokens: two labels or more are compared, not {list(self.labels)}")


@dataclass(frozen=True)
class TextRead:
    """The value is in a reply: the last match of a pattern.

    Attributes:
        pattern: a regular expression of one group, which is a number, or one of ``values``.
        values: what words stand for. least, most: of the numbers, which are scaled to 0 to 1; others count as unread.
        max_tokens, temperature, top_p: of the reply. votes: replies, whose mean counts.
    """

    pattern: str
    values: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0
    most: float = 1.0
    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    votes: int = 1

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "text: pattern")
        if not self.least < self.most or self.votes < 1:
            raise ConfigError("text: least has to be below most, and votes 1 or more")

    def value(self, reply: str) -> float | None:
        """What a reply says, 0 to 1; None where it says nothing."""
        found = re.findall(self.pattern, reply)
        if not found:
            return None
        if found[-1] in self.values:
            return self.values[found[-1]]
        try:
            number = float(found[-1])
        except ValueError:
            return None
        return (number - self.least) / (self.most - self.least) if self.least <= number <= self.most else None


@dataclass(frozen=True)
class PairRead:
    """A reply says which of two answers is better.

    Attributes:
        pattern: a regular expression of one group, which is ``1`` or ``2`` or one of ``values``; its last match counts.
        otherwise: the same, for a reply in which ``pattern`` has no match; empty: that says nothing.
        values: what words stand for, 1 or 2. tournament, both_orders: as of `self-judge`.
        max_tokens, temperature, top_p: of the reply. votes: replies to each question, of which more have to say one
            answer than the other.
    """

    pattern: str
    otherwise: str = ""
    values: Mapping[str, int] = field(default_factory=dict)
    tournament: Literal["knockout", "round-robin"] = "knockout"
    both_orders: bool = True
    max_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    votes: int = 1

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "pair: pattern")
        if self.otherwise:
            check_pattern(self.otherwise, "pair: otherwise")
        if self.votes < 1 or not set(self.values.values()) <= {1, 2}:
            raise ConfigError("pair: votes has to be 1 or more, and values 1 or 2")

    def winner(self, replies: Sequence[str]) -> int | None:
        """0 or 1; None where the replies do not say, or as many say the one as the other."""
        said = [self._place(reply) for reply in replies]
        first, second = said.count("1"), said.count("2")
        return None if first == second else int(second > first)

    def _place(self, reply: str) -> str:
        found = re.findall(self.pattern, reply) or (re.findall(self.otherwise, reply) if self.otherwise else [])
        return str(self.values.get(found[-1], found[-1])) if found else ""


@dataclass(frozen=True)
class HeadRead:
    """A head reads the last hidden state at a token: behind the closed turn of an answer, or at a marker behind each step.

    Attributes:
        file: of the checkpoint, with the head's weights. layers: names of its linear layers, in order, each with
            ``.weight`` and, where there is one, ``.bias``; between two of them stands a ReLU.
        output: which of its outputs is the value. softmax: whether it is that one's share. sigmoid: whether it is passed
            through one.
        marker: the token behind each step at which its value is read; empty: the whole answer has one.
    """

    file: str
    layers: tuple[str, ...]
    output: int = 0
    softmax: bool = False
    sigmoid: bool = False
    marker: str = ""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("head: layers names the linear layers that read the hidden state: one or more")


@dataclass(frozen=True)
class Thinking:
    """What the model writes about a whole answer before it reads its steps.

    Attributes:
        system, question, images: as of the recipe, whose own are those of the steps then.
        pattern: a regular expression; what its one group matches in the reply goes on. max_tokens, temperature: of the reply.
    """

    question: str
    system: str = ""
    images: Images = "first"
    pattern: str = r"(?s)(.*)"
    max_tokens: int = 1024
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "thinking: pattern")


@dataclass(frozen=True)
class Recipe:
    """A reward model's format.

    Texts have places: ``{question}``, ``{answer}`` (the whole), ``{step}`` and ``{number}`` (from ``first_number`` on),
    ``{solution}`` (all steps, each as ``numbered``), ``{judgments}`` (those so far, each as ``judgment`` with
    ``{label}``), ``{thinking}``, ``{first}`` and ``{second}`` (of two answers), and ``{images}``.

    Attributes:
        about: the models, their source and licence, and what was not tried. models: names on the hub.
        architectures: the ``model_type`` of the checkpoints; none: any.
        level: what has a value. ``step``: each step, in the light of those before. ``answer``: the whole.
        question: the user's turn; with ``reply``, that of the first step.
        reply, next_step: where steps are turns: what the assistant's turn between two of them holds, and the user's
            turn of a later step.
        images: where they stand in the first user turn, unless its text says ``{images}``; ``none``: it has none. A model
            that gets none at all is loaded as one for texts alone.
        processor: options that its processor is loaded with: ``size``.
        step: how a stage becomes a step, with ``{stage}`` and ``{text}``. joined: what stands between two in ``{answer}``.
        thinking: what is written about the whole answer first.
        tokens, text, pair, head: how a value is read: one of them.
        aggregate: how steps become one score.
    """

    about: str
    question: str
    models: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    level: Literal["step", "answer"] = "step"
    system: str = ""
    reply: str = ""
    next_step: str = "{step}"
    images: Images = "first"
    processor: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    step: str = "{text}"
    joined: str = "\n\n"
    numbered: str = "Step {number}: {step}"
    first_number: int = 0
    judgment: str = ""
    no_judgment: str = "None"
    thinking: Thinking | None = None
    tokens: TokenRead | None = None
    text: TextRead | None = None
    pair: PairRead | None = None
    head: HeadRead | None = None
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        given = [name for name in ("tokens", "text", "pair", "head") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"one of tokens, text, pair and head says how it is read, not {' and '.join(given) or 'none'}"
            )
        if (self.pair or self.text) is not None and self.level != "answer":
            raise ConfigError("pair and text say something of whole answers: level has to be answer")
        if self.head is not None and bool(self.head.marker) != (self.level == "step"):
            raise ConfigError("head: steps (level: step) are read at a marker, and an answer without one")
        if self.judgment and self.tokens is None:
            raise ConfigError("judgment: earlier steps' labels are known where tokens are read")

    @property
    def takes_images(self) -> bool:
        """Whether the model is shown pictures anywhere."""
        return self.images != "none" or (self.thinking is not None and self.thinking.images != "none")

    @classmethod
    def load(cls, name: str) -> Recipe:
        """One of the package's by its name, or one from a YAML file.

        Raises:
            ConfigError: no such recipe, or a key or value that makes no sense.
        """
        if name.endswith((".yaml", ".yml")):
            return read_declared(cls, read_document(name), name, "recipe")
        known = built_in()
        if name not in known:
            raise UnknownNameError("recipe", name, known)
        return read_declared(cls, parse_yaml(known[name].read_text(encoding="utf-8"), name), name, "recipe")


def built_in() -> dict[str, Any]:
    """The package's files by name of recipe."""
    folder = files("structdecode.verifiers").joinpath("recipes", "models")
    return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
