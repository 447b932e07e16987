from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from structdecode.evaluation.taxonomy import Kind, bad_choices, count, failure
from structdecode.records.types import Record, ScoredCandidate, ScoringRound

STAGES = {"SUMMARY": "s", "CAPTION": "c", "REASONING": "r", "CONCLUSION": "4"}


def record(**given: Any) -> Record:
    fields: dict[str, Any] = {
        "key": "k", "cell": "c", "id": "q", "strategy": "stage-beam", "verifier": None, "settings": {}, "seed": 0,
        "answer": "4", "correct": False, "rule": "number", "extracted": "4", "status": "answered", "valid": True,
        "usage": {}, "flops": {}, "seconds": 0.0, "stopped_by": None, "stages": STAGES, "wrong_stages": (),
        "pool": (), "rounds": (),
    }  # fmt: skip
    return Record(**{**fields, **given})


def pooled(*right: bool, valid: bool = True) -> tuple[ScoredCandidate, ...]:
    return tuple(ScoredCandidate((i,), "?", ok, None, valid) for i, ok in enumerate(right))


def rounds(*given: tuple[str, Mapping[tuple[int, ...], bool | None]]) -> tuple[ScoringRound, ...]:
    return tuple(ScoringRound(s, "rule", tuple(r), tuple(1.0 for _ in r), tuple(r.values())) for s, r in given)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "could not be asked": ({"error": "no picture", "status": "empty", "valid": False}, "not asked"),
    "refused": ({"status": "refused", "stopped_by": "tokens"}, "refused or abstained"),
    "abstained, though a right one was there": ({"status": "abstained", "pool": pooled(False, True)}, "refused or abstained"),
    "cut by the budget": ({"stopped_by": "tokens", "valid": False}, "budget spent"),
    "malformed": ({"valid": False, "wrong_stages": ("CAPTION",)}, "bad format"),
    "nothing in it": ({"status": "empty"}, "bad format"),
    "a right one was at hand": (
        {"pool": pooled(False, True), "rounds": rounds(("CONCLUSION", {(0,): False, (1,): True}))},
        "chosen badly at CONCLUSION",
    ),
    "outvoted, nothing scored": ({"pool": pooled(False, False, True)}, "chosen badly at CONCLUSION"),
    "the right one is malformed": ({"pool": (*pooled(False), *pooled(True, valid=False))}, "never generated"),
    "a right caption was dropped": (
        {
            "pool": (ScoredCandidate((0, 1, 0), "?", False, 1.0, True),),
            "rounds": rounds(
                ("SUMMARY", {(0,): True, (1,): True}),
                ("CAPTION", {(0, 0): True, (0, 1): False}),
                ("REASONING", {(0, 1, 0): False, (0, 1, 1): True}),
            ),
            "wrong_stages": ("CAPTION", "REASONING"),
        },
        "chosen badly at CAPTION",
    ),
    "a right caption was kept beside the wrong one, and its right reasoning dropped": (
        {
            "pool": (ScoredCandidate((1, 0), "?", False, 1.0, True),),
            "rounds": rounds(("CAPTION", {(0,): True, (1,): False}), ("REASONING", {(0, 0): True, (1, 0): False})),
            "wrong_stages": ("CAPTION", "REASONING"),
        },
        "chosen badly at REASONING",
    ),
    "all captions wrong, and the same reasoning right in all": (
        {
            "pool": (ScoredCandidate((0, 0), "?", False, 1.0, True),),
            "rounds": rounds(("CAPTION", {(0,): False, (1,): False}), ("REASONING", {(0, 0): True, (0, 1): True})),
            "wrong_stages": ("CAPTION", "CONCLUSION"),
        },
        "wrong caption",
    ),
    "all captions wrong": (
        {
            "pool": (ScoredCandidate((1,), "?", False, 1.0, True),),
            "rounds": rounds(("CAPTION", {(0,): False, (1,): False, (2,): None})),
            "wrong_stages": ("CAPTION", "CONCLUSION"),
        },
        "wrong caption",
    ),
    "the caption is right": ({"wrong_stages": ("REASONING", "CONCLUSION"), "pool": pooled(False)}, "wrong reasoning"),
    "no references": ({"pool": pooled(False, False)}, "never generated"),
    "no caption to be wrong": ({"stages": {"ANSWER": "4"}, "wrong_stages": ("ANSWER",)}, "never generated"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES.keys())
def test_why_it_is_wrong(given: dict[str, Any], expected: str) -> None:
    assert str(failure(record(**given))) == expected
    assert failure(record(**{**given, "correct": True})) is None


def test_every_kind_has_a_case() -> None:
    assert {kind for _, text in CASES.values() for kind in Kind if text.startswith(kind)} == set(Kind)


anything = some.builds(
    record,
    correct=some.booleans(), error=some.sampled_from(["", "no picture"]), valid=some.booleans(),
    status=some.sampled_from(["answered", "abstained", "refused", "empty"]),
    stopped_by=some.sampled_from([None, "tokens"]), stages=some.sampled_from([STAGES, {"ANSWER": "4"}, {}]),
    wrong_stages=some.sampled_from([(), ("CAPTION",), ("CONCLUSION",)]),
    pool=some.lists(some.booleans(), max_size=3).map(lambda right: pooled(*right)),
    rounds=some.lists(some.booleans(), max_size=3).map(
        lambda right: rounds(("CAPTION", {(i,): ok for i, ok in enumerate(right)}))
    ),
)  # fmt: skip


@given(some.lists(anything, max_size=20))
def test_failures_add_up(records: list[Record]) -> None:
    """One failure for each wrong record, none for a right one, whatever the record."""
    wrong = sum(not r.correct for r in records)
    assert sum(count(records).values()) == wrong
    assert list(count(records)) == [str(kind) for kind in Kind]
    assert sum(bad_choices(records).values()) == count(records)["chosen badly"]
