"""Whether a cell's figures are those of what its name says: a verifier that never worked or often failed, or nothing that was answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from structdecode.records.types import Record

MOST_UNSCORED = 0.05
"""The share of candidates that a verifier may leave without a score and still be held against others."""
_LENGTH = 200


def broken(records: Sequence[Record]) -> str:
    """Why a cell is no evidence for its strategy and verifier; empty where it is.

    A verifier that failed and never gave a score, or left more than `MOST_UNSCORED` of its candidates without one; no
    question that could be asked, or only empty answers. Such a cell is shown and counted, but it is no winner, on no
    front and in no comparison.
    """
    if not records:
        return ""
    errors = [record.error for record in records if record.error]
    if len(errors) == len(records):
        return f"no question could be asked (first error: {_short(errors[0])})"
    if all(record.status == "empty" for record in records):
        return verifier_failure(records) or "all its answers are empty"
    return verifier_failure(records) or verifier_gaps(records)


def verifier_failure(records: Sequence[Record]) -> str:
    """What became of a verifier that never gave a score, with its first error; empty where each one did."""
    first: dict[str, str] = {}
    for record in records:
        for failure in record.failures:
            first.setdefault(failure.partition(": ")[0], failure)
    worked = {
        found.verifier for record in records for found in record.rounds if any(v is not None for v in found.values)
    }
    for verifier, failure in first.items():
        if verifier not in worked:
            return f"its verifier never worked (first error: {_short(failure)})"
    rounds = [found for record in records for found in record.rounds]
    if rounds and not worked:
        return f"its verifier {rounds[0].verifier} never gave a score"
    return ""


def verifier_gaps(records: Sequence[Record]) -> str:
    """Which verifier left more than `MOST_UNSCORED` of its candidates without a score, with the first error; else empty.

    Only stages count in which it gave a score at all: `by-stage`, say, has nothing to say about the others. What a spent
    budget left unscored is not the verifier's failure.
    """
    asked, missing = Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    by_record = [(record, found) for record in records for found in record.rounds]
    known = {(found.verifier, found.stage) for _, found in by_record if any(v is not None for v in found.values)}
    for record, found in by_record:
        if (found.verifier, found.stage) not in known or (record.stopped_by and not record.failures):
            continue
        asked[found.verifier] += len(found.values)
        missing[found.verifier] += found.values.count(None)
        failed = next((text for text in record.failures if text.partition(": ")[0] == found.verifier), "")
        if None in found.values and (failed or found.reason):
            first.setdefault(found.verifier, failed or f"{found.verifier}: {found.reason}")
    for verifier, count in missing.items():
        if count > MOST_UNSCORED * asked[verifier]:
            error = f" (first error: {_short(first[verifier])})" if verifier in first else ""
            return f"its verifier {verifier} gave no score to {count} of {asked[verifier]} candidates{error}"
    return ""


def first_failure(records: Sequence[Record]) -> str:
    """The first error of a verifier, short enough for a sentence."""
    return _short(next((text for record in records for text in record.failures), ""))


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _LENGTH else words[:_LENGTH] + " …"
