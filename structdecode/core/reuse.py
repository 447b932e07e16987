"""What of an answer a session may have kept, and what it has to compute anew: what is billed follows from these rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from structdecode.core.types import Candidate


def kept_as(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """Token ids under which a session may have kept an answer, longest first.

    What was put behind the model's own tokens to close a stage was never fed: the part without it counts too.
    """
    ids = candidate.token_ids
    yield ids
    if suffix := _suffix(candidate):
        yield ids[:-suffix]


def known_beginnings(candidate: Candidate) -> Iterator[tuple[int, ...]]:
    """The same of an answer and of its parts that end with a stage."""
    for spans in range(len(candidate.spans), 0, -1):
        yield from kept_as(Candidate(candidate.spans[:spans]))


def owed(candidate: Candidate, prefix: int, known: int) -> int:
    """Prompt tokens that are computed before an answer may continue, where ``known`` of its own are there already.

    Of a candidate's own tokens the last one and what was put behind them to close its stage are part of drawing them;
    where more is missing (another view, a candidate that was let go, another model) all of it is.

    Args:
        prefix: tokens of the begin tag that is put behind it.
    """
    own = len(candidate.token_ids)
    return prefix if known >= own - _suffix(candidate) - 1 else own + prefix - known


def owed_to_end(end: Candidate, known: int) -> int:
    """The same of an answer of which all is computed: its last span's last token and what was put behind are part of it."""
    return max(0, len(end.token_ids) - known - _suffix(end) - 1)


def _suffix(candidate: Candidate) -> int:
    return len(candidate.spans[-1].suffix_ids) if candidate.spans else 0


@dataclass(frozen=True)
class PromptTokens:
    """What a session says of its prompt, so that what a search costs can be told again without the model.

    Attributes:
        ids: the prompt's tokens. text_from: the first place behind all picture tokens.
        shares: whether a prompt's beginning is taken over from another one with the same pictures.
        pictures_apart: whether the pictures' keys and values are kept apart from the text's (cross-attention).
    """

    ids: tuple[int, ...]
    text_from: int = 0
    shares: bool = False
    pictures_apart: bool = False
