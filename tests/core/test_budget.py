"""The arithmetic of limits and counts, at their edges."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from structdecode.core.border import ForeignValueError, check_counts
from structdecode.core.budget import MOST, Budget, Meter, Tally, Usage
from structdecode.core.errors import BudgetSpent, ConfigError, UnknownNameError


def usage(first: int) -> Usage:
    """One of which every count is different."""
    return Usage(*range(first, first + len(fields(Usage))))


def test_usages_add_up_and_come_apart_field_by_field() -> None:
    assert usage(3) + usage(10) == Usage(*range(13, 13 + 2 * len(fields(Usage)), 2))
    assert (usage(3) + usage(10)) - usage(10) == usage(3)


def test_a_budget_is_read_as_it_is_written() -> None:
    assert Budget.parse(" tokens=5, seconds=1.5,dollars=0.25,") == Budget(tokens=5, seconds=1.5, dollars=0.25)
    for text, words in (
        ("tokens=1=2", "budget tokens must be a number, not '1=2'"), ("tokens", "budget tokens must be a number, not ''"),
        ("tokens=1.5", "budget tokens must be a number, not '1.5'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            Budget.parse(text)
        assert str(caught.value) == words
    with pytest.raises(UnknownNameError, match=r"^unknown budget 'tokns'.*tokens"):
        Budget.parse("tokns=5")


def test_a_limit_is_from_none_to_the_most() -> None:
    assert Budget(tokens=MOST).tokens == MOST and Budget(tokens=0).tokens == 0
    for tokens, words in ((MOST + 1, f"tokens must be at most {MOST:,}"), (-1, "tokens must be 0 or more, not -1")):
        with pytest.raises(ConfigError, match=words):
            Budget(tokens=tokens)


def test_all_of_a_limit_may_be_spent_and_no_more() -> None:
    meter = Meter(Budget(verifier_calls=3, prefill_tokens=10))
    meter.spend(Usage(verifier_calls=2, prefilled_tokens=10), "verifier")
    meter.spend(Usage(verifier_calls=1), "verifier")
    assert meter.remaining.verifier_calls == 0 and meter.remaining.prefill_tokens == 0
    with pytest.raises(BudgetSpent):
        meter.spend(Usage(verifier_calls=1), "verifier")
    assert meter.stopped_by == "verifier_calls" and meter.usage.verifier_calls == 3, (
        "what there was no room for is not charged"
    )


def test_all_of_a_limit_in_dollars_may_be_spent_though_floats_do_not_add_up() -> None:
    meter = Meter(Budget(dollars=0.3))
    for _ in range(3):
        meter.spend(Usage(dollars=0.1), "verifier")
    assert meter.usage.dollars > 0.3 and meter.stopped_by is None
    with pytest.raises(BudgetSpent):
        meter.spend(Usage(dollars=0.1), "verifier")


@pytest.mark.parametrize(
    ("left", "rows", "wanted", "limits"),
    [(None, 3, 5, [5, 5, 5]), (15, 3, 5, [5, 5, 5]), (14, 3, 5, [5, 5, 4]), (2, 3, 5, [1, 1, 0]), (7, 1, 5, [5])],
)
def test_tokens_are_shared_out_evenly(left: int | None, rows: int, wanted: int, limits: list[int]) -> None:
    with Meter(Budget(tokens=left)).call("generator", rows, wanted) as call:
        assert call.limits == limits


def test_what_was_reserved_is_free_again_but_for_what_was_charged() -> None:
    meter = Meter(Budget(tokens=10, model_calls=2))
    with meter.call("generator", 2, 4) as call:
        assert (meter.remaining.tokens, meter.remaining.model_calls) == (2, 1)
        call.charge(Usage(generated_tokens=3, model_calls=1))
        assert (meter.remaining.tokens, meter.remaining.model_calls) == (2, 1), "charged out of what was reserved"
        call.release()
        assert (meter.remaining.tokens, meter.remaining.model_calls) == (7, 1)
    assert (meter.remaining.tokens, meter.remaining.model_calls) == (7, 1)
    assert meter.parts["generator"].generated_tokens == 3 and meter.parts["verifier"] == Usage()


def test_prompt_tokens_are_charged_before_they_are_computed_or_not_at_all() -> None:
    meter = Meter(Budget(prefill_tokens=10))
    with meter.call("verifier") as call:
        call.admit(6)
        with pytest.raises(BudgetSpent):
            call.admit(5)
        call.admit(4)
    assert meter.parts["verifier"].prefilled_tokens == 10 and meter.stopped_by == "prefill_tokens"
    with pytest.raises(BudgetSpent), meter.call("verifier"):
        pass
    with meter.call("generator", 1, 5) as call:
        assert call.limits == [5], "what generates asks for tokens, and is told by `admit`"


def test_an_account_that_passes_on_knows_the_sum() -> None:
    meter = Meter(Budget())
    with meter.call("generator", 1, 9) as call:
        tally = Tally(call)
        tally.admit(4)
        tally.charge(Usage(generated_tokens=2))
        tally.charge(Usage(generated_tokens=1, model_calls=1))
    assert tally.usage == Usage(prefilled_tokens=4, generated_tokens=3, model_calls=1)
    assert meter.parts["generator"] == Usage(3, 4, model_calls=1, seconds=meter.parts["generator"].seconds)


def test_flops_of_a_verifiers_own_model_are_kept_apart_with_its_tokens() -> None:
    meter = Meter(Budget())
    meter.charge(Usage(prefilled_tokens=5, flops=7.0, seconds=3.0), "verifier")
    meter.charge(Usage(prefilled_tokens=2), "verifier")
    assert meter.own_models == Usage(prefilled_tokens=5, flops=7.0)
    assert meter.parts["verifier"].prefilled_tokens == 7 and meter.parts["verifier"].seconds == 0


def test_seconds_of_a_part_are_those_in_which_it_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("structdecode.core.budget.time.monotonic", lambda: now[0])
    meter = Meter(Budget(seconds=10))
    assert meter.deadline == 110 and meter.deadline_passed is None and not meter.busy
    with meter.working("generator"):
        now[0] += 2
        with meter.working("generator"):  # a second piece beside it
            now[0] += 1
        assert meter.busy and meter.parts["generator"].seconds == 3
        now[0] += 1
    now[0] += 1
    with meter.working("generator"):
        now[0] += 3
    assert not meter.busy and meter.parts["generator"].seconds == 7 and meter.parts["verifier"].seconds == 0
    assert meter.usage.seconds == 8 and meter.remaining.seconds == 2
    meter.check()
    now[0] += 2
    assert meter.deadline_passed == "seconds" and meter.remaining.seconds == 0
    with pytest.raises(BudgetSpent, match="seconds"):
        meter.check()
    assert meter.stopped_by == "seconds"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (12, "charge takes a Usage, not 12"), ("x" * 200, "charge takes a Usage, not '" + "x" * 79 + "... (202 characters)"),
        (Usage(dollars=-1.5), "charged dollars must be 0 or more, not -1.5"), (Usage(model_calls=float("nan")), "nan is not a finite number"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_no_charge(given: Any, words: str) -> None:
    with pytest.raises(ForeignValueError) as caught:
        check_counts(given, Usage)
    assert words in str(caught.value)
    check_counts(Usage(generated_tokens=3), Usage)
