"""A candidate's text in pieces: where it differs from the chosen one's, and how likely each token was."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
MOST_WORDS = 1_000
"""Words of a text that are compared: time grows with their square."""


class Piece(NamedTuple):
    """Some text; ``instead``: what the chosen one has in its place (None: the same); ``log_prob``: of its token, where known."""

    text: str
    instead: str | None = None
    log_prob: float | None = None

    @property
    def unlikely(self) -> int:
        """From 0 for a certain token to 9 for one of a probability of 1 % or less."""
        return 0 if self.log_prob is None else round(min(9.0, max(0.0, -self.log_prob / math.log(100) * 9)))

    @property
    def title(self) -> str:
        """What is said of it where a reader points at it."""
        said = [] if self.log_prob is None else [f"probability {probability(self.log_prob):.3g}"]
        if self.instead is not None:
            said.append(f"chosen: {self.instead.strip()}" if self.instead.strip() else "not in the chosen one")
        return " · ".join(said)


def probability(log_prob: float) -> float:
    return math.exp(min(0.0, log_prob))  # what a stranger's trace holds may be no log-probability


def differences(text: str, chosen: str) -> Iterator[Piece]:
    """The text in pieces that the chosen one has, too, and such that it has not. What it lacks is a piece without text."""
    mine, theirs = _WORDS.findall(text), _WORDS.findall(chosen)
    if text == chosen or max(len(mine), len(theirs)) > MOST_WORDS:
        yield Piece(text)
        return
    compared = SequenceMatcher(None, [w.strip() for w in theirs], [w.strip() for w in mine])
    for what, start, end, at, to in compared.get_opcodes():
        yield Piece("".join(mine[at:to]), None if what == "equal" else "".join(theirs[start:end]))


def with_tokens(pieces: Sequence[Piece], tokens: Sequence[tuple[str, float]]) -> Iterator[Piece]:
    """The pieces cut where a token ends, each with its token's log-probability.

    Args:
        tokens: text and log-probability of each that was written, tags included; joined they hold the pieces' text.
    """
    text, written = "".join(piece.text for piece in pieces), "".join(token for token, _ in tokens)
    start = written.find(text)
    if start < 0 or not tokens:
        yield from pieces
        return
    ends, at = [], -start
    for token, log_prob in tokens:
        at += len(token)
        ends.append((at, log_prob))
    place, current = 0, 0
    for piece in pieces:
        if not piece.text:
            yield piece
        until = place + len(piece.text)
        while place < until:
            while ends[current][0] <= place:
                current += 1
            end = min(until, ends[current][0])
            yield Piece(text[place:end], piece.instead, ends[current][1])
            place = end
