"""Selectors against another library's (scorio), against what they turn into at their limits, and at their edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scorio import aggregate as theirs

from structdecode.core.errors import ConfigError
from structdecode.core.types import Score
from structdecode.selection.selectors import (
    Bayes,
    Best,
    BestOfMajority,
    Borda,
    Filtered,
    LogOdds,
    Majority,
    MajorityOfTheBests,
    MinimumBayesRisk,
    Pessimistic,
    Sample,
    Selector,
    Softmax,
    Weighted,
    choose,
    same_words,
)

Oracle = Callable[[list[Any], list[float]], Any]


def pools(count: int) -> list[tuple[list[Any], list[float]]]:
    """Answers of 1 to 16 samples, some without one, with scores some of which are equal."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        n = int(rng.integers(1, 17))
        answers = [None if rng.random() < 0.1 else "ABCDE"[int(k)] for k in rng.integers(0, rng.integers(1, 6), size=n)]
        scores = rng.integers(1, 20, size=n) / 20 if rng.random() < 0.5 else rng.random(n) * 0.98 + 0.01
        found.append((answers, [float(s) for s in scores]))
    return found


POOLS = pools(10_000)


def samples(answers: list[Any], scores: list[float], texts: list[str] | None = None) -> list[Sample]:
    written = texts or [str(answer) for answer in answers]
    return [Sample(a, Score(s, resolution=0.0), t) for a, s, t in zip(answers, scores, written, strict=True)]


def pessimistic(answers: list[Any], scores: list[float]) -> Any:
    """Transcribed: mean score less alpha ln N / (count + 1)."""
    said = [(a, s) for a, s in zip(answers, scores, strict=True) if a is not None]
    groups = {a: [s for b, s in said if b == a] for a, _ in said}
    return max(
        groups,
        key=lambda a: sum(groups[a]) / len(groups[a]) - 0.5 * math.log(len(said)) / (len(groups[a]) + 1),
        default=None,
    )


@pytest.mark.parametrize(
    ("selector", "oracle"),
    [
        (Best(), theirs.best_of_n),
        (Majority(), lambda a, s: theirs.majority_vote(a)),
        (Weighted(), theirs.weighted_majority_vote),
        (Weighted("mean"), lambda a, s: theirs.weighted_majority_vote(a, s, aggregate="mean")),
        (Filtered(0.5), lambda a, s: theirs.filtered_vote(a, s, keep=0.5)),
        (Filtered(0.1), lambda a, s: theirs.filtered_vote(a, s, keep=0.1)),
        (Borda(1.0), lambda a, s: theirs.rank_weighted_vote(a, s, p=1.0)),
        (Borda(0.5), lambda a, s: theirs.rank_weighted_vote(a, s, p=0.5)),
        (Softmax(0.3), lambda a, s: theirs.softmax_weighted_vote(a, s, temperature=0.3)),
        (LogOdds(), theirs.logit_weighted_vote),
        (LogOdds(0.3), lambda a, s: theirs.logit_weighted_vote(a, s, threshold=0.3)),
        (BestOfMajority(0.3), lambda a, s: theirs.best_of_majority(a, s, alpha=0.3)),
        (BestOfMajority(0.5, "max"), lambda a, s: theirs.best_of_majority(a, s, alpha=0.5, aggregate="max")),
        (BestOfMajority(0.2, "sum"), lambda a, s: theirs.best_of_majority(a, s, alpha=0.2, aggregate="sum")),
        (MajorityOfTheBests(), theirs.majority_of_the_bests),
        (MajorityOfTheBests(3), lambda a, s: theirs.majority_of_the_bests(a, s, m=3)),
        (Bayes(), theirs.cges_vote),
        (Pessimistic(), pessimistic),
        (MinimumBayesRisk("answer"), lambda a, s: theirs.majority_vote(a)),
        (MinimumBayesRisk("answer", 0.3), lambda a, s: theirs.softmax_weighted_vote(a, s, temperature=0.3)),
    ],
)  # fmt: skip
def test_ten_thousand_pools_are_chosen_from_alike(selector: Selector, oracle: Oracle) -> None:
    """Where two answers have the same value to the last bits, either will do: sums are in another order there."""
    exact = 0
    for answers, scores in POOLS:
        pool = samples(answers, scores)
        at, expected = choose(selector, pool), oracle(answers, scores)
        if at is None:
            assert expected is None
            continue
        values = dict(zip(answers, selector(pool), strict=True))
        exact += answers[at] == expected
        assert answers[at] == expected or values[answers[at]] == pytest.approx(values[expected], abs=1e-9)
    assert exact > 0.75 * len(POOLS)


def test_at_their_limits_they_are_each_other() -> None:
    for answers, scores in POOLS[:2_000]:
        pool = samples(answers, [s + 1e-3 * at for at, s in enumerate(scores)])  # no ties
        assert (
            choose(Softmax(1e-4), pool)
            == choose(Best(), pool)
            == choose(Borda(100), pool)
            == choose(MajorityOfTheBests(99), pool)
        )
        for like in (Softmax(1e9), Borda(0), MinimumBayesRisk("answer"), BestOfMajority(0, "sum"), Weighted()):
            even = samples(answers, [0.5] * len(answers)) if isinstance(like, Weighted | BestOfMajority) else pool
            one, other = choose(like, even), choose(Majority(), even)
            majority = Majority()(even)
            assert (one is None) == (other is None)
            assert one is None or other is None or majority[one] == majority[other], like


def test_a_calm_majority_may_lose_and_a_lone_favourite_may_not_win() -> None:
    answers, scores = ["A", "A", "A", "B"], [0.2, 0.2, 0.2, 0.9]
    chosen = {
        type(s).__name__: answers[choose(s, samples(answers, scores)) or 0]
        for s in (Majority(), LogOdds(), Best(), MajorityOfTheBests(1), Bayes())
    }
    assert chosen == {"Majority": "A", "LogOdds": "B", "Best": "B", "MajorityOfTheBests": "A", "Bayes": "B"}


def test_most_like_the_others() -> None:
    texts = ["a red cat on a mat", "a red cat on the mat", "the dog", "a red cat"]
    pool = samples(texts, [0.5] * 4, texts)
    assert choose(MinimumBayesRisk(), pool) == 1 and choose(MinimumBayesRisk("answer"), pool) == 0
    assert choose(MinimumBayesRisk(lambda one, other: -abs(len(one) - len(other)) - (one == texts[0])), pool) == 3
    assert (
        same_words("A b", "b c") == 0.5
        and same_words("", "b") == 0.0
        and same_words("x x y", "x y y") == pytest.approx(2 / 3)
    )


@pytest.mark.parametrize(
    "selector",
    [
        Best(),
        Majority(),
        Weighted(),
        Filtered(),
        Borda(),
        Softmax(),
        LogOdds(),
        BestOfMajority(),
        MajorityOfTheBests(),
        Pessimistic(),
        Bayes(),
        MinimumBayesRisk(),
        MinimumBayesRisk("words", 1.0),
    ],
)
def test_who_says_nothing_has_no_say(selector: Selector) -> None:
    none = samples([None, None], [0.9, 0.8])
    assert choose(selector, none) is None and selector(none) == [None, None] and selector([]) == []
    pool = [
        *samples(["A"], [0.4]),
        *samples([None], [0.99]),
        Sample("A", Score.unscored("failed"), "A"),
        *samples(["B"], [0.3]),
    ]
    values = selector(pool)
    assert values[1] is None and choose(selector, pool) == 0
    if selector.needs_scores:
        assert choose(selector, [Sample("A"), Sample("B")]) is None, "nobody has a score"
    else:
        assert choose(selector, [Sample("A", text="A"), Sample("B", text="B"), Sample("B", text="B")]) == 1


def test_noise_in_the_scores_decides_no_rank() -> None:
    """Scores that differ by less than their resolution are in the samples' order."""
    for noise in (1e-7, -1e-7):
        pool = [
            Sample(a, Score(0.5 + n, resolution=1e-5)) for a, n in (("A", 0.0), ("B", noise), ("B", 0.0), ("A", noise))
        ]
        assert choose(Best(), pool) == choose(Borda(2.0), pool) == choose(MajorityOfTheBests(), pool) == 0
        assert choose(Filtered(0.25), pool) == 0


@pytest.mark.parametrize("selector", [LogOdds(), Bayes()])
@pytest.mark.parametrize("score", [0.0, 1.0, -2.5, 7.0])
def test_what_is_no_probability_is_said(selector: Selector, score: float) -> None:
    with pytest.raises(ConfigError, match=rf"probabilities between 0 and 1, not {score:g}.*p-true"):
        selector(samples(["A", "B"], [score, 0.5]))


@pytest.mark.parametrize("selector", [Weighted(), Filtered(), BestOfMajority(0.0, "sum")])
def test_sums_of_negative_scores_are_refused(selector: Selector) -> None:
    """Mean log-probabilities, say: the more often an answer was given the lower its sum."""
    with pytest.raises(ConfigError, match=r"needs them to be 0 or more, not -0.5: use softmax or borda"):
        selector(samples(["A", "A", "B"], [-0.1, -0.5, -0.3]))
    assert choose(Weighted("mean"), samples(["A", "A", "B"], [-0.1, -0.5, -0.4])) == 0


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (Filtered, {"keep": 0.0}, "keep"), (Filtered, {"keep": 1.1}, "keep"), (Borda, {"power": -1}, "power"),
        (Softmax, {"temperature": 1e-310}, "temperature must be at least 1e-06"), (LogOdds, {"threshold": 1}, "threshold"), (BestOfMajority, {"at_least": 1.5}, "at_least"),
        (MajorityOfTheBests, {"m": -1}, "m must"), (Pessimistic, {"alpha": -0.1}, "alpha"), (MinimumBayesRisk, {"temperature": -1}, "temperature"),
    ],
)  # fmt: skip
def test_settings_out_of_range(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**settings)


@pytest.mark.parametrize("selector", [LogOdds(), Bayes()])
def test_one_hopeless_sample_overturns_no_clear_vote(selector: Selector) -> None:
    """Its log-odds are all noise; those of the others are not."""
    pool = [
        Sample(a, Score(p, resolution=1e-5))
        for a, p, n in (("A", 0.8, 15), ("B", 0.85, 1), ("D", 1e-7, 1))
        for _ in range(n)
    ]
    assert pool[choose(selector, pool) or 0].answer == "A"
    close = [Sample(a, Score(p, resolution=1e-2)) for a, p in (("B", 0.801), ("A", 0.8))]
    assert choose(selector, close) == 0 and choose(selector, close[::-1]) == 0, "the same within noise: the first"


def test_coarse_scores_that_are_equal_leave_the_majority_its_lead() -> None:
    for temperature in (0.1, 1.0):
        pool = [Sample(a, Score(0.6, resolution=1e-2)) for a in "BBBBBBBAAAAAAAAA"]
        assert pool[choose(Softmax(temperature), pool) or 0].answer == "A"


class OfOnesOwn:
    def __init__(self, gives: Any) -> None:
        self.gives, self.needs_scores = gives, False

    def __call__(self, samples: Any) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ([1.0], "gave 1 values for 2 samples"), ([1.0] * 3, "gave 3 values for 2 samples"), (["a", "b"], "gave 'a'"),
        ([float("nan"), 1.0], "gave nan"), ([float("inf"), 1.0], "gave inf"), (None, "failed: TypeError"), (ZeroDivisionError("x"), "failed: ZeroDivisionError: x"),
    ],
)  # fmt: skip
def test_a_selector_of_ones_own_is_held_to_its_word(gives: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(OfOnesOwn(gives), samples(["A", "B"], [0.1, 0.2]))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("selector", [Best(), Majority(), Softmax(), Borda(), MinimumBayesRisk("answer", 1.0)])
def test_scores_that_are_no_numbers_are_refused(selector: Selector, score: float) -> None:
    with pytest.raises(ConfigError, match="not finite numbers"):
        choose(selector, samples(["A", "B"], [score, 0.2]))


def test_numbers_beyond_all_floats_are_refused() -> None:
    with pytest.raises(ConfigError, match="failed: OverflowError"):
        choose(Weighted(), samples(["A", "A", "A"], [1.7e308] * 3))
