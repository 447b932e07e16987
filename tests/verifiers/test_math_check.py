from __future__ import annotations

import time

import pytest

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.types import Candidate, Prompt
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.math_check import MathCheck, equations, holds
from tests.verifiers.test_verifiers import score, values

RIGHT = [
    "3 + 4 = 7", "So 12 \u00d7 3 = 36.", "1,000 + 1 = 1,001", r"\(12 \div 4 \times 3 = 9\)", r"$\frac{1}{2} + \frac{1}{2} = 1$",
    "(3 + 4) * 2 = 14", "3\u00b2 + 4\u00b2 = 25", "2^{10} = 1024", "2**3 = 8", "7 = 3 + 4", "-3 - 4 = -7", "So -3 + 4 = 1", "$3,000 * 2 = $6,000",
    "3 x 4 = 12 apples", "10 / 3 = 3.33", "10/3 \u2248 3", r"98.7 + 1.1 \approx 100", "1. 3 + 4 = 7", "(3 + 4 = 7)", "Total: 3+4=7", "5 * -2 = -10",
    "0.1 + 0.2 = 0.3",
]  # fmt: skip
WRONG = [
    "3 + 4 = 8",
    "10 / 3 = 3",
    "10 / 3 = 3.34",
    "2 * 3 + 1 = 8",
    "1/0 = 3",
    "2^10 = 1000",
    "98.7 + 1.1 \u2248 90",
    "2. 7 * 2 = 15",
]
NOTHING = [
    "x + 3 = 9", "2x + 3 = 7", "x - 3 + 5 = 4", "a1 + 2 = 3", "3 + 4 = 7x", "2(3 + 4) = 13", "f(3 + 4 = 8)", "20% of 50 = 11", "half of 3 + 4 = 3",
    "7 = 7", "7 = 8", "3 + = 7", "= = =", "5! + 1 = 6", "2 + 2 != 5", "3 + 4 => 8", "12 apples - 3 apples = 8 apples", "3 + 4 = 8 - x", "10:30 - 1 = 8",
    "\u221a16 + 1 = 6", "3 + 4 = 8%", "3 + (4 = 8", "", "a1 red square in 1. So 1.",
]  # fmt: skip


def said(text: str) -> Candidate:
    return candidate("s", "c", text)


@pytest.mark.parametrize("text", RIGHT)
def test_what_holds(text: str) -> None:
    assert [holds(*each) for each in equations(text)] == [True]


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_hold(text: str) -> None:
    assert [holds(*each) for each in equations(text)] == [False]


@pytest.mark.parametrize("text", NOTHING)
def test_what_cannot_be_checked_is_passed_over(text: str) -> None:
    assert list(equations(text)) == []


def test_the_share_of_the_newest_stages_equations_that_hold() -> None:
    mixed = said("3 + 4 = 7. 7 * 2 = 15 = 10 + 5. Then 1 + 1 = 3.")
    (found,) = score(MathCheck(), [mixed])
    assert found.value == 0.5 and found.reason == "wrong: 7 * 2 = 15; 1 + 1 = 3" and found.resolution == 0
    assert [each["holds"] for each in found.details["equations"]] == [True, False, True, False]
    earlier = candidate("s", "c", "1 + 1 = 3", "1 + 1 = 2")
    assert values(*score(MathCheck(), [earlier])) == [1.0]
    assert values(*score(MathCheck(most=1), [said("1 + 1 = 3. 1 + 1 = 2.")])) == [1.0]


def test_nothing_to_check() -> None:
    given = [said("No sums here."), said("9^9^9 = 3"), Candidate()]
    assert [(s.value, s.reason) for s in score(MathCheck(), given)] == [(None, "no arithmetic to check")] * 3
    assert values(*score(MathCheck(nothing="neutral"), given)) == [0.5] * 3


@pytest.mark.parametrize(
    "text",
    ["1" * 20_000 + "=", "(-" * 4000 + "1=2", "1 + " * 4000 + "= 1", "1=1" * 4000, "( " * 4000, "1)" * 4000 + "=", "^" * 9000, "1+1=" * 3000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    began = time.perf_counter()
    list(equations(text))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "text", ["9^9^9 = 3", "9^(9999) = 3", "9^(900 * 900) = 3", "9^{9^{9^9}} = 3", f"1 + {'9' * 60} = 3"]
)
def test_what_would_run_for_ever_is_not_begun(text: str) -> None:
    began = time.perf_counter()
    assert [holds(*each) for each in equations(text)] == [None]
    assert time.perf_counter() - began < 1


def test_laws_and_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    check_verifier(MathCheck())
    check_verifier(MathCheck(), [said("3 + 4 = 7"), said("3 + 4 = 8")], EchoModel(), Prompt("?"))
    for wrong in ({"most": 0}, {"nothing": "half"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MathCheck(**wrong)  # type: ignore[arg-type]
    monkeypatch.setattr("structdecode.verifiers.math_check.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="math-verify"):
        MathCheck()
