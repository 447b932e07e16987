"""Why an answer is wrong: one failure for each wrong record, so that a cell's failures add up.

The first of these that holds, in this order:

1. ``not asked``: the question could not be asked (`Record.error`).
2. ``refused or abstained``: the answer says so.
3. ``budget spent``: a limit ended the search, so what it would have found cannot be told.
4. ``bad format``: a stage of the chosen answer is malformed, or there is no answer in it.
5. ``chosen badly``: a finished candidate with a right answer was there, or a right stage was dropped for a wrong one;
   with the stage at which that happened.
6. ``wrong caption``: the caption differs from the reference.
7. ``wrong reasoning``: the caption is right; what was made of it (reasoning, arithmetic, conclusion) is not.
8. ``never generated``: no candidate is right, and there are no reference stages to tell what went wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from structdecode.records.types import Record, ScoringRound

CAPTION = "CAPTION"
"""The stage that says what is in the picture, as LLaVA-o1 names it."""


class Kind(StrEnum):
    """What went wrong, in the order in which it is looked for."""

    NOT_ASKED = "not asked"
    REFUSED = "refused or abstained"
    BUDGET_SPENT = "budget spent"
    BAD_FORMAT = "bad format"
    CHOSEN_BADLY = "chosen badly"
    WRONG_CAPTION = "wrong caption"
    WRONG_REASONING = "wrong reasoning"
    NEVER_GENERATED = "never generated"


@dataclass(frozen=True)
class Failure:
    """Why a record is wrong. ``stage`` is where the choice went wrong, of ``chosen badly`` only."""

    kind: Kind
    stage: str = ""

    def __str__(self) -> str:
        return f"{self.kind} at {self.stage}" if self.stage else str(self.kind)


def failure(record: Record) -> Failure | None:
    """The one failure of a record; None where it is right."""
    if record.correct:
        return None
    if record.error:
        return Failure(Kind.NOT_ASKED)
    if record.status in ("abstained", "refused"):
        return Failure(Kind.REFUSED)
    if record.stopped_by is not None:
        return Failure(Kind.BUDGET_SPENT)
    if not record.valid or record.status == "empty":
        return Failure(Kind.BAD_FORMAT)
    stage = bad_choice(record)
    if stage:
        return Failure(Kind.CHOSEN_BADLY, stage)
    if not record.wrong_stages or CAPTION not in record.stages:
        return Failure(Kind.NEVER_GENERATED)
    return Failure(Kind.WRONG_CAPTION if CAPTION in record.wrong_stages else Kind.WRONG_REASONING)


def bad_choice(record: Record) -> str:
    """The stage at which a right branch lost to a wrong one; empty where none did.

    Where a finished right answer was at hand it is the last choice: the stage that was scored last, or the last stage
    where nothing was scored (a majority vote). Else the first round that dropped every branch which was right in its
    stage and had fewer stages wrong than the one that was kept.
    """
    if any(candidate.correct and candidate.valid for candidate in record.pool):
        scored = [found.stage for found in record.rounds if any(value is not None for value in found.values)]
        return scored[-1] if scored else next(reversed(list(record.stages)), "answer")
    best = record.pool[0].path if record.pool else ()
    sides = {path: (r.stage, right) for r in record.rounds for path, right in zip(r.paths, r.right, strict=True)}

    def wrong(path: tuple[int, ...]) -> set[str]:
        seen = [sides[path[:k]] for k in range(1, len(path) + 1) if path[:k] in sides]
        return {stage for stage, right in seen if right is False}

    for at, found in enumerate(record.rounds):
        chosen = next((path for path in found.paths if path == best[: len(path)]), None)
        if chosen is None:
            continue
        better = [path for path in found.paths if sides[path][1] and wrong(path) < wrong(chosen)]
        if better and not _go_on(better, record.rounds[at + 1 :]):
            return found.stage
    return ""


def _go_on(paths: list[tuple[int, ...]], rounds: tuple[ScoringRound, ...]) -> bool:
    """Whether any of the branches is still there in a later round."""
    return any(later[: len(path)] == path for path in paths for found in rounds for later in found.paths)


def count(records: Iterable[Record]) -> dict[str, int]:
    """How often each kind occurs, all kinds named, zeros included."""
    found = Counter(f.kind for record in records if (f := failure(record)) is not None)
    return {str(kind): found[kind] for kind in Kind}


def bad_choices(records: Iterable[Record]) -> dict[str, int]:
    """By stage, how often the choice went wrong there; most often first."""
    found = Counter(f.stage for record in records if (f := failure(record)) is not None and f.stage)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
