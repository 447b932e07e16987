from __future__ import annotations

import pytest

from structdecode.matching.answers import final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2", "2"), ("2.", "2"), (" 2.0 ", "2"), ("1,000", "1000"), ("-3.50", "-3.5"), ("(B)", "b"), ("B.", "b"), ("b)", "b"),
        ("The answer is 4.", "4"), ("Answer: (C)", "c"), ("The final answer is: a red square.", "red square"),
        ("1 a1 red square. 2 b2 red circle. So 2. 2", "2"), ("Yes.", "yes"), ("a dog", "dog"), ("", ""), ("A", "a"),
        ("So the answer is 3. Wait, the answer is 5", "5"), ("There are 3 cats and 4 dogs, 7 in all", "7"),
    ],
)  # fmt: skip
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize("number", [2**53 + 1, 10**400 + 1, -(10**400) - 1])
def test_large_integers_do_not_share_a_vote(number: int) -> None:
    assert final_answer(f"The answer is {number:,}.") == str(number)
    assert final_answer("9" * 5000) != final_answer("9" * 5001)
