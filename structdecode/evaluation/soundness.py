"""Whether a cell's figures are those of what its name says: a verifier that never worked, or nothing that was answered."""

from __future__ import annotations

from collections.abc import Sequence

from structdecode.records.types import Record

_LENGTH = 200


def broken(records: Sequence[Record]) -> str:
    """Why a cell is no evidence for its strategy and verifier; empty where it is.

    A verifier that failed and never gave a score, no question that could be asked, or only empty answers. Such a cell is
    shown and counted, but it is no winner, on no front and in no comparison.
    """
    if not records:
        return ""
    errors = [record.error for record in records if record.error]
    if len(errors) == len(records):
        return f"no question could be asked (first error: {_short(errors[0])})"
    if all(record.status == "empty" for record in records):
        return verifier_failure(records) or "all its answers are empty"
    return verifier_failure(records)


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


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _LENGTH else words[:_LENGTH] + " …"
