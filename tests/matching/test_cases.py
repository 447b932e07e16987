"""The table of hand-made cases: every answer text has a known verdict, and the rule that gives it."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from structdecode.matching import kind_of, match
from structdecode.matching.types import Question
from tests.matching.tables import Case, cases

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.place)
def test_case(case: Case) -> None:
    found = match(case.text, case.question)
    verdict = "right" if found.correct else "wrong" if found.status == "answered" else found.status
    assert (verdict, found.rule) == (case.expected, case.rule), (
        f"{case.text!r} against {case.question.answers}: {found}"
    )
    if case.extracted:
        assert found.extracted == case.extracted


def test_the_table_is_large_and_tries_to_be_wrong() -> None:
    expected = Counter(case.expected for case in CASES)
    assert len(CASES) >= 1700
    assert expected["wrong"] >= 700, "false accepts are what it is for"
    assert min(expected[status] for status in ("abstained", "refused", "empty")) >= 10
    assert len({(c.text, c.question.answers, c.question.text, str(c.question.options)) for c in CASES}) > 0.99 * len(
        CASES
    )


def test_no_wrong_answer_has_the_vote_of_a_right_one() -> None:
    """Majority voting counts `extracted`: for one question a wrong answer's text never equals a right one's."""
    votes: dict[tuple[object, ...], dict[str, set[bool]]] = {}
    for case in CASES:
        found, q = match(case.text, case.question), case.question
        if found.extracted:
            key = (q.answers, q.kind, q.text, q.tolerance, str(q.options))
            votes.setdefault(key, {}).setdefault(found.extracted, set()).add(found.correct)
    mixed = [(key, text) for key, texts in votes.items() for text, verdicts in texts.items() if len(verdicts) > 1]
    assert mixed == []


@pytest.mark.parametrize(
    ("answers", "options", "kind"),
    [
        (("B",), {"A": "x", "B": "y"}, "choice"), (("y",), {"A": "x", "B": "y"}, "choice"),
        (("A, C",), {"A": "x", "B": "y", "C": "z"}, "set"), (("yes",), {"A": "yes", "B": "no"}, "choice"),
        (("Yes",), {}, "yes-no"), (("true", "yes"), {}, "yes-no"), (("yes", "4"), {}, "text"), (("Norway",), {}, "text"),
        (("4",), {}, "number"), (("4", "four"), {}, "number"), (("1,000",), {}, "number"), (("5 cm",), {}, "number"),
        (("75%",), {}, "number"), (("-0",), {}, "number"), (("3/4",), {}, "number"), (("5 apples",), {}, "text"),
        (("NaN",), {}, "text"), (("10:30",), {}, "text"), (("3-4",), {}, "text"), (("9" * 5000,), {}, "text"),
        (("x^2",), {}, "latex"), (("$x$",), {}, "latex"), (("(1, 2)",), {}, "latex"), (("\\frac{1}{2}",), {}, "number"),
        (("\\sqrt{2}",), {}, "latex"), (("x = 5",), {}, "latex"), (("red, blue, green",), {}, "set"), (("[1, 2, 3]",), {}, "set"),
        (("1, 2",), {}, "set"), (("Paris, France",), {}, "text"), (("Paris",), {}, "text"), ((), {}, "text"), (("",), {}, "text"),
        (("A",), {}, "text"),
    ],
)  # fmt: skip
def test_kind_of(answers: tuple[str, ...], options: dict[str, str], kind: str) -> None:
    assert kind_of(Question("1", "?", answers, options=options)) == kind


def test_the_datas_word_on_the_kind_counts() -> None:
    assert kind_of(Question("1", "?", ("4",), kind="text")) == "text"
    assert match("four", Question("1", "?", ("4",), kind="text")).correct is False


def test_giant_integers_are_exact() -> None:
    big = str(10**400)
    assert match(f"The answer is {big}.", Question("1", "?", (big,))).correct
    assert not match(str(10**400 + 1), Question("1", "?", (big,))).correct
    assert match("10^400", Question("1", "?", (big,))).correct
    assert match("9" * 5000, Question("1", "?", ("9" * 5000,), kind="number")).rule == "number:identical"
    assert not match("9" * 5001, Question("1", "?", ("9" * 5000,), kind="number")).correct


LONG = [
    "a", "1", "1,", "1 ", " x", "x" + " " * 99, "\n", "(", "{", "\\boxed{", "\\boxed{1} ", "$ ", "$a", "\\frac{1}{", "*", "*a ", "not ",
    "the answer is ", "answer to ", "yes, no, ", "A or B ", "red, ", "dark ", "twenty ", "1/", "-", "5 cm ", "10^", ".", "U.",
    "? ", "if ", "<answer>", "wait, ", "i'm sorry ", "the ", "'", "so ", "²", "½", "1\u00a0", "\\,", "- a\n", "is ", "\\text{", "= ",
    "5 cubic ", "1e", "[(", '"', "i ", "3 and ", "a. ", "there are no ", "1'000", "_", "minus ", "is not quite ", "#", "> ",
    "i thought ", "some people ", "5, no, ", "no, ", "-> ", "- ", "->", "=>", "is right but ", ". or ", "! ", "my first ", "but it is ", "five and ",
]  # fmt: skip


@pytest.mark.parametrize("unit", LONG)
def test_no_text_of_100_000_characters_takes_long(unit: str) -> None:
    text = "x" + unit * (100_000 // len(unit)) + "x"
    options = {"A": "red", "B": "dark red", "C": "12"}
    kinds = {"choice": "B", "number": "4", "yes-no": "yes", "set": "a, b", "latex": "x+1", "text": "Paris"}
    start = time.process_time()
    for kind, answer in kinds.items():
        chosen = options if kind == "choice" else {}
        match(text, Question("1", "How many?", (answer,), options=chosen, kind=kind))  # type: ignore[arg-type]
    assert time.process_time() - start < 30  # a guard against what grows with the square of the length
