"""The table of forms that were called right falsely or missed, row by row; and that equal keys have equal verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import permutations

import pytest

from structdecode.matching import answer_key, match
from structdecode.matching.quantities import amount
from structdecode.matching.texts import unify
from structdecode.matching.types import Question
from tests.matching.kinds import KNOWN_MISSES, ROWS, Row


def _question(row: Row, reference: str | None = None) -> Question:
    return Question("1", "Q?", (reference or row.reference,), options=_options(row), kind=row.kind)


def _options(row: Row) -> dict[str, str]:
    return dict(zip("ABCDEFGH", row.options, strict=False))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.reference}-{row.answer}"[:60])
def test_row(row: Row) -> None:
    found = match(row.answer, _question(row))
    assert found.correct == (row.right and row.answer not in KNOWN_MISSES), found


def test_the_table_is_large_and_half_of_it_is_wrong() -> None:
    counts = Counter(row.right for row in ROWS)
    assert len(ROWS) >= 700
    assert counts[False] >= 300
    assert counts[True] >= 300
    assert len(KNOWN_MISSES) <= 1


def _pools() -> dict[tuple[str, tuple[str, ...]], list[Row]]:
    pools: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
    for row in ROWS:
        pools.setdefault((row.kind, row.options), []).append(row)
    return pools


def _has_no_unit(reference: str) -> bool:
    value = amount(unify(reference))
    return value is None or value.unit is None


def test_answers_with_one_key_have_one_verdict() -> None:
    """Against every reference of their kind. A reference without a unit is left out: it takes a number as written."""
    differing = []
    for (kind, _), rows in _pools().items():
        same: dict[Hashable, list[Row]] = {}
        for row in rows:
            if (key := answer_key(row.answer, row.kind, _options(row), "Q?")) is not None:
                same.setdefault(key, []).append(row)
        references = {row.reference for row in rows}
        if kind in ("number", "latex"):
            references = {reference for reference in references if not _has_no_unit(reference)}
        for group in same.values():
            for reference in references:
                verdicts = {row.answer: match(row.answer, _question(row, reference)).correct for row in group}
                if len(set(verdicts.values())) > 1:
                    differing.append((reference, verdicts))
    assert differing == []


def test_answers_without_a_unit_have_one_verdict_against_bare_numbers_too() -> None:
    differing = []
    for (kind, _), rows in _pools().items():
        same: dict[Hashable, list[Row]] = {}
        for row in rows:
            key = answer_key(row.answer, row.kind, _options(row), "Q?") if kind in ("number", "latex") else None
            if isinstance(key, tuple) and key[0] == "number" and key[2] == "":
                same.setdefault(key, []).append(row)
        for group in same.values():
            for reference in {row.reference for row in rows}:
                verdicts = {row.answer: match(row.answer, _question(row, reference)).correct for row in group}
                if len(set(verdicts.values())) > 1:
                    differing.append((reference, verdicts))
    assert differing == []


def test_right_and_wrong_answers_to_one_question_have_different_keys() -> None:
    keys: dict[tuple[object, ...], dict[Hashable, set[bool]]] = {}
    for row in ROWS:
        key = answer_key(row.answer, row.kind, _options(row), "Q?")
        if key is not None and row.answer not in KNOWN_MISSES:
            verdicts = keys.setdefault((row.kind, row.options, row.reference), {})
            verdicts.setdefault(key, set()).add(row.right)
    assert [(q, key) for q, by_key in keys.items() for key, both in by_key.items() if len(both) > 1] == []


def test_sameness_is_an_equivalence() -> None:
    """Equality of hashable keys is; what this holds is that a key depends on nothing but its answer."""
    for (kind, _), rows in _pools().items():
        sample = rows[::7]
        keys = {row.answer: answer_key(row.answer, row.kind, _options(row), "Q?") for row in sample}
        assert all(hash(key) is not None for key in keys.values())
        for a, b, c in permutations(keys.values(), 3):
            assert a != b or b != c or a == c, kind
        assert keys == {r.answer: answer_key(r.answer, r.kind, _options(r), "Q?") for r in reversed(sample)}


@pytest.mark.parametrize(
    ("together", "apart"),
    [
        (["1/2", "0.5", r"\frac{1}{2}", ".5", "½", r"$\frac12$", r"\boxed{0.5}"], ["5", "0.05", "-0.5", "1/3"]),
        (["12 cm", "120 mm", "0.12 m", r"$12\text{ cm}$"], ["12 m", "120 cm", "12 cm^2", "12"]),
        (["There are 5 dogs and 2 cats"], ["There are 7 dogs and 2 cats", "There are 5 dogs and 3 cats", "2"]),
        (["5 percent", "5%", r"5\%"], ["5 apples", "5", "5 pears", "5 cm"]),
        (["B.", r"\boxed{B}", "(B)", "B", "b", "Option B", "The answer is B.", "**B**"], ["A", r"\boxed{C}"]),
        ([r"2\sqrt{3}", "2√3", r"\sqrt{12}"], ["2", "3", r"\sqrt{3}"]),
        (["5!", "120"], ["5", "120 cm"]),
        ([r"5\pi kg", r"$5\pi$ kg"], [r"5\pi m", r"5\pi", "5 kg"]),
        (["2^-54", r"$2^{-54}$", r"\frac{1}{2^{54}}"], ["2^-55", "0"]),
        (["Yes", "yes.", "The answer is yes"], ["No", "Yes and no"]),
    ],
)
def test_what_votes_together(together: list[str], apart: list[str]) -> None:
    """Where nothing is known of the question."""
    keys = [answer_key(answer) for answer in together]
    assert len(set(keys)) == 1
    assert keys[0] is not None
    assert not {answer_key(answer) for answer in apart} & set(keys)


@pytest.mark.parametrize("answer", ["", "  ", "I don't know.", "I can't help with that.", "<CONCLUSION></CONCLUSION>"])
def test_no_answer_has_no_key(answer: str) -> None:
    assert answer_key(answer) is None
    assert answer_key(answer, "choice", {"A": "red", "B": "blue"}) is None
