"""What is read out of a judge's replies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from structdecode.backends.openai.requests import Reply
from structdecode.core.reading import parse_json
from structdecode.core.shapes import misfit

_THOUGHT = "</think>"
"""What ends a model's thinking; a verdict stands behind it."""
_LEVEL = re.compile(r"[^\w-]*(?:(?:score|rating|grade|level|answer)\W+)?([1-9])(?!\d|[.,]\d)", re.IGNORECASE)
_DIGIT = re.compile(r"\s*[1-9]\s*")
_RANKING = re.compile(r"\[?\b\d{1,6}\b\]?(?:\s*>\s*\[?\d{1,6}\b\]?)+")


class _Alternative(TypedDict):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: Sequence[_Alternative]


@dataclass(frozen=True)
class JudgeReply:
    """A reply that was paid for, now or earlier.

    Attributes:
        top: natural log-probabilities of the digits among the tokens that the server names at the place of the reply's
            level; None where it names none.
    """

    reply: Reply
    top: Mapping[str, float] | None = None


def level_in(text: str) -> re.Match[str] | None:
    """The digit that a reply begins with, as group 1: behind thinking, punctuation, and a word like "Score"."""
    thought = text.rfind(_THOUGHT)
    return _LEVEL.match(text, thought + len(_THOUGHT) if thought >= 0 else 0)


def top_log_probs(text: str) -> dict[str, float] | None:
    """`JudgeReply.top` of a server's JSON."""
    try:
        tokens = parse_json(text)["choices"][0]["logprobs"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return None if misfit(tokens, list[_Token]) is not None else _at_level(tokens)


def _at_level(tokens: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    found = level_in("".join(token["token"] for token in tokens))
    place = -1 if found is None else found.start(1)
    for token in tokens:
        if found is not None and 0 <= place < len(token["token"]):
            named = {a["token"]: a["logprob"] for a in (*token["top_logprobs"], token) if _DIGIT.fullmatch(a["token"])}
            return named if token["token"] in named else None
        place -= len(token["token"])
    return None


def label_probabilities(top: Mapping[str, float], levels: int) -> list[float]:
    """Of the levels 1 to ``levels``, each the sum of the tokens that are its digit but for white space."""
    return [
        sum(math.exp(min(value, 0.0)) for token, value in top.items() if token.strip() == str(level))
        for level in range(1, levels + 1)
    ]


def ranking_in(text: str, count: int) -> list[int] | None:
    """The last "[2] > [1] > [3]" of a reply, from 0, if it names each of ``count`` once."""
    found = _RANKING.findall(text.rpartition(_THOUGHT)[2])
    numbers = [int(number) - 1 for number in re.findall(r"\d+", found[-1])] if found else []
    return numbers if sorted(numbers) == list(range(count)) else None
