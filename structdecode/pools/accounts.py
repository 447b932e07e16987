"""What a search would have been charged, told from the lengths of what it read and wrote: the rules of the engines, without a model.

An isolated search (`structdecode.evaluation.isolation`) starts with nothing in memory, so its charges follow from what it asked
for. `tests/pools` hold these rules to both engines, search by search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from structdecode.core.budget import Usage
from structdecode.core.protocols import Account
from structdecode.core.reuse import PromptTokens, kept_as, known_beginnings, owed, owed_to_end
from structdecode.core.types import Candidate

Ids = tuple[int, ...]


@dataclass
class SearchAccounts:
    """Prompts and pictures that one search has in memory."""

    _known: list[tuple[PromptTokens, tuple[str, ...]]] = field(default_factory=list)
    _encoded: set[tuple[str, ...]] = field(default_factory=set)

    def read(self, prompt: PromptTokens, images: tuple[str, ...], account: Account) -> None:
        """Charges a prompt that is prefilled: what another one has in common with it is not computed again."""
        length = len(prompt.ids)
        have = self._in_common(prompt, images)
        account.admit(length - (have or 0))
        if have:
            account.charge(Usage(cached_tokens=have))
        if have == length:
            return
        apart = prompt.pictures_apart and any(theirs == images for _, theirs in self._known)
        if images and have is None and not apart and images not in self._encoded:
            account.charge(Usage(images_encoded=len(images)))
            self._encoded.add(images)
        if prompt.shares:
            self._known.append((prompt, images))

    def _in_common(self, prompt: PromptTokens, images: tuple[str, ...]) -> int | None:
        """Tokens that need not be computed; None where no prompt has any in common."""
        found = None
        for known, theirs in self._known:
            common = _common(known.ids, prompt.ids)
            if theirs == images and common > (found or 0) and common >= known.text_from:
                found = common if known.ids == prompt.ids else min(common, len(prompt.ids) - 1)
        return found


@dataclass(frozen=True)
class _Place:
    """How much of an answer is in memory, and whether the probability of the next token is."""

    length: int
    told: bool


class PromptAccounts:
    """What one prompt's session has in memory of its answers."""

    def __init__(self, search: SearchAccounts, prompt: PromptTokens, images: tuple[str, ...]) -> None:
        self._search, self._prompt, self._images = search, prompt, images
        self._read = False
        self._branches: dict[Ids, _Place] = {(): _Place(0, True)}
        self._prefixes_told: set[Ids] = set()

    @property
    def length(self) -> int:
        return len(self._prompt.ids)

    def read(self, account: Account) -> None:
        if not self._read:
            self._search.read(self._prompt, self._images, account)
            self._read = True

    def begin(
        self, starts: Sequence[tuple[Candidate, Ids]], account: Account, *, prefix_log_probs: bool = False
    ) -> None:
        """Charges what is computed before rows can be written: each behind its candidate and the begin tag's tokens."""
        missing: dict[Ids, _Place] = {}
        told: set[Ids] = set()
        cached = forced = 0
        for candidate, prefix in starts:
            ids = (*candidate.token_ids, *prefix)
            asked = prefix_log_probs and bool(prefix) and ids not in self._prefixes_told
            place = self._branches.get(ids)
            if place is None or not place.told or asked:
                first = ids not in missing
                place = missing.setdefault(ids, self._longest(candidate, ids, told=asked))
                forced += owed(candidate, len(prefix), place.length) if first else 0
            cached += self.length + place.length
            told |= {ids} if asked else set()
        account.charge(Usage(cached_tokens=cached))
        account.admit(forced)
        self._prefixes_told |= told
        self._branches.update({ids: _Place(len(ids), True) for ids in missing})

    def written(self, start: Ids, ids: Ids) -> None:
        """A row that was drawn: its last token was never fed."""
        self._branches.setdefault((*start, *ids), _Place(len(start) + max(0, len(ids) - 1), False))

    def put_in(self, start: Ids, ids: Ids) -> None:
        """A text that was fed whole."""
        self._branches.setdefault((*start, *ids), _Place(len(start) + len(ids), True))

    def end_states(self, ends: Iterable[Candidate], account: Account) -> None:
        """Charges what is computed for the hidden states at the ends of answers."""
        missing: dict[Ids, _Place] = {}
        for end in ends:
            ids = end.token_ids
            if ids not in missing:
                place = missing[ids] = self._longest(end, ids)
                account.admit(owed_to_end(end, place.length))
        self._branches.update({ids: _Place(len(ids), True) for ids in missing})

    def release(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            for ids in kept_as(candidate):
                self._branches.pop(ids, None)

    def _longest(self, candidate: Candidate, ids: Ids, *, told: bool = False) -> _Place:
        """As the engines' ``_longest_known``: the candidate's own place, else an ancestor's, else the bare prompt's."""
        for beginning in known_beginnings(candidate):
            known = self._branches.get(beginning)
            if known is None or known.length >= len(ids):
                continue
            if not told or known.told or known.length < len(candidate.token_ids):
                return known
        return _Place(0, True)


def _common(one: Ids, other: Ids) -> int:
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(at for at in range(length) if one[at] != other[at])
