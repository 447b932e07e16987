"""What holds for any text: no exception, the reference is right, equal answers have one form."""

from __future__ import annotations

from typing import get_args

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from structdecode.matching import match
from structdecode.matching.answers import final_answer
from structdecode.matching.text import normalise
from structdecode.matching.texts import clean
from structdecode.matching.types import Kind, Match, Question

VOCABULARY = """A B (B) C. red blue 4 4.5 -5 1,000 1/2 3/0 75% 5 cm km $ $5 € \\boxed{ } { ( ) yes no not true false the
answer is either or and because wait if ? ! . , ; : ** * ` <CONCLUSION> </CONCLUSION> </think> \\frac{1}{2} \\text{cm} ^ ^{2}
² ½ \u2212 x = + e10 10^400 1e999 °C I don't know sorry can't help cannot be determined twenty one hundred dozen more than"""
WORDS = st.sampled_from([*VOCABULARY.split(), "\n"])
TEXTS = st.one_of(
    st.text(max_size=80), st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS, max_size=12).map("".join)
)
KINDS = st.sampled_from([kind for kind in get_args(Kind) if kind != "latex"])
OPTIONS = st.sampled_from(
    [{}, {"A": "red", "B": "dark red", "C": "4"}, {"A": "", "B": "yes", "C": "cannot be determined"}]
)


@settings(max_examples=600, deadline=None)
@given(
    TEXTS, st.lists(TEXTS, max_size=2), KINDS | st.none(), OPTIONS, st.sampled_from([None, 0.05, -1.0, float("nan")])
)
def test_never_raises(
    text: str, answers: list[str], kind: Kind | None, options: dict[str, str], tolerance: float | None
) -> None:
    question = Question("1", "How many cm?", tuple(answers), options=options, kind=kind, tolerance=tolerance)
    found = match(text, question)
    assert isinstance(found, Match)
    assert found.rule
    assert not (found.correct and found.status != "answered")
    assert found == match(text, question)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_never_raises_on_formulas(text: str, answer: str) -> None:
    assert isinstance(match(text, Question("1", "?", (answer,), kind="latex")), Match)


@settings(max_examples=400, deadline=None)
@given(TEXTS, KINDS, OPTIONS)
def test_a_reference_is_right(answer: str, kind: Kind, options: dict[str, str]) -> None:
    assume(clean(answer))
    found = match(answer, Question("1", "?", (answer,), options=options, kind=kind))
    assert found.correct
    assert found.status == "answered"


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(10**30), 10**30),
    st.sampled_from(["{}", "{:,}", "The answer is {}.", "**{}**", "\\boxed{{{}}}", "I count {}"]),
)
def test_integers_are_exact_in_every_dress(number: int, dress: str) -> None:
    question = Question("1", "?", (str(number),))
    right = match(dress.format(number), question)
    assert right.correct
    assert right.extracted == str(number)
    assert not match(dress.format(number + 1), question).correct
    assert not match(dress.format(number * 10 + 1), question).correct


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["choice", "number", "yes-no", "text"]), OPTIONS)
@example("ICANT\x1f", "text", {})
@example("\\frac{0}{1}I", "number", {})
@example("\\frac{0}{1} kW", "number", {})
@example("0 HUNDRED", "number", {})
def test_extracted_extracts_itself(text: str, kind: Kind, options: dict[str, str]) -> None:
    question = Question("1", "How long?", ("2.5 km",), options=options, kind=kind)
    once = match(text, question)
    assume(
        once.extracted
        and once.status == "answered"
        and once.rule.split(":")[1:] != ["identical"]
        and len(once.extracted) < 500
    )
    if kind == "text":
        assume(
            final_answer(once.extracted) == normalise(once.extracted) == clean(once.extracted) == once.extracted
        )  # "A-A" is "a a", which begins with an article, and 'ANSWER"IS' announces an answer
    assert match(once.extracted, question).extracted == once.extracted
