"""Fitting, measuring, and the figures within a question: against hand-made and textbook values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from structdecode.evaluation import statistics, within
from structdecode.evaluation.calibration import Labels, fitted, measured, out_of_fold, quality, spread
from structdecode.evaluation.components import components


def labels(scores: list[float], right: list[float], groups: list[str]) -> Labels:
    return Labels(np.array(scores), np.array(right), tuple(groups), len(set(groups)))


def drawn(n: int, slope: float, seed: int = 0) -> Labels:
    """Scores whose chance to be right is a logistic curve, one a question."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(2.0, 3.0, n)
    right = rng.random(n) < 1 / (1 + np.exp(-(slope * scores - 1.0)))
    return labels(scores.tolist(), right.astype(float).tolist(), [f"q{i}" for i in range(n)])


def test_platt_finds_the_curve_that_was_drawn_from() -> None:
    found = fitted(drawn(4000, 0.8).scores, drawn(4000, 0.8).right, "platt")
    assert found.slope == pytest.approx(0.8, abs=0.06) and found.intercept == pytest.approx(-1.0, abs=0.15)
    apart = fitted(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0]), "platt")
    assert 0 < apart.slope < 10, "Platt's targets keep it finite"


def test_isotonic_is_the_regression_and_a_share_counts_as_such() -> None:
    found = fitted(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.25, 0.75, 0.25, 1.0]), "isotonic")
    assert found.knots == ((1.0, 0.25), (2.0, 0.5), (3.0, 0.5), (4.0, 1.0))


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_scores_that_fall_with_right_answers_say_the_share_alone(method: str) -> None:
    one = drawn(2000, -0.8)
    found = fitted(one.scores, one.right, method)  # type: ignore[arg-type]
    assert found(-5.0) == pytest.approx(one.right.mean(), abs=0.02) == found(9.0)
    assert found(-5.0) < found(9.0)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibration_mends_what_is_overconfident(method: str) -> None:
    one = drawn(1500, 0.4)
    said = 1 / (1 + np.exp(-4 * one.scores))  # far too sure
    found = measured(Labels(said, one.right, one.groups, one.questions), method)  # type: ignore[arg-type]
    assert found.raw is not None and found.low is not None and found.low > 0.05
    assert found.gain == pytest.approx(found.raw.brier - found.calibrated.brier)
    assert found.calibrated.ece < 0.05 < found.raw.ece and found.calibrated.log_loss < found.raw.log_loss
    assert found.calibrated.brier < found.base.brier


def test_a_question_is_held_out_as_a_whole() -> None:
    """One candidate of each question after the other: a split of candidates would part those of one question."""
    rng = np.random.default_rng(1)
    groups = [f"q{question}" for _ in range(6) for question in range(60)]
    right = rng.integers(0, 2, 60).astype(float).tolist() * 6
    calibrated, base = out_of_fold(labels(rng.normal(size=360).tolist(), right, groups), "isotonic")
    by_question = [set(base[at::60].tolist()) for at in range(60)]
    assert all(len(shares) == 1 for shares in by_question) and len(set().union(*by_question)) > 2
    assert len(calibrated) == 360


def test_quality_by_hand() -> None:
    found = quality(np.array([0.9, 0.8, 0.1, 1.0]), np.array([1.0, 0.0, 0.5, 1.0]))
    assert found.brier == pytest.approx((0.01 + 0.64 + (0.5 * 0.81 + 0.5 * 0.01) + 0.0) / 4)
    losses = [-math.log(0.9), -math.log(0.2), -0.5 * math.log(0.1) - 0.5 * math.log(0.9), 0.0]
    assert found.log_loss == pytest.approx(sum(losses) / 4, abs=1e-6)
    assert found.ece == pytest.approx((abs(0.9 - 1 + 1.0 - 1) + 0.8 + 0.4) / 4)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (labels([], [], []), "no candidate has a score"),
        (labels([1, 2], [1, 1], ["a", "b"]), "all 2 candidates are right"),
        (labels([1, 2], [0, 1], ["a", "a"]), "share one picture"),
        (labels([1, 2], [0, 1], ["a", "b"]), ""),
    ],
)
def test_what_cannot_be_fitted(one: Labels, why: str) -> None:
    assert (why in one.known) if why else not one.known


def test_the_spread_of_scores() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (4, 2.5) and found.sigma == pytest.approx(math.sqrt(5 / 3))
    assert found.quantiles["0.5"] == 2.5 and spread([2.0]).sigma == 0.0


# ------------------------------------------------------------------ within questions


def test_auc_is_the_reports_and_counts_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    questions = [(rng.integers(0, 4, 8).astype(float), rng.integers(0, 2, 8).astype(float)) for _ in range(20)]
    parted = [(s[r == 1].tolist(), s[r == 0].tolist()) for s, r in questions]
    clusters = [f"p{at // 2}" for at in range(20)]
    kept = [(s.tolist(), r.tolist()) for s, r in questions]
    found = within.discrimination(kept, clusters)
    expected, pairs = statistics.auc(parted, clusters)
    assert (found.auc, found.pairs) == (expected, pairs) and found.auc.clusters == 10
    tied = sum(x == y for right, wrong in parted for x in right for y in wrong)
    assert found.ties == pytest.approx(tied / pairs)


def test_shares_make_pairs_and_noise_ties() -> None:
    found = within.discrimination([([3.0, 2.0, 1.0], [0.5, 1.0, 0.0])], ["a"])
    # right above wrong: 3 over 1 in 0.5 pairs, 2 over 1 in 1; 2 below 3 in 0.5
    assert found.pairs == pytest.approx(2.0) and found.auc.value == pytest.approx(1.5 / 2)
    near = within.discrimination([([1.0, 1.0 + 1e-6], [0.0, 1.0])], ["a"], resolution=1e-5)
    assert near.auc.value == 0.5 and near.ties == 1.0
    assert math.isnan(within.discrimination([([1.0], [1.0])], ["a"]).auc.value)


def test_correlation_within_questions_is_not_that_between_them() -> None:
    rng = np.random.default_rng(0)
    questions = [at // 8 for at in range(480)]
    level = np.repeat(rng.normal(0, 10, 60), 8)
    x = rng.normal(size=480)
    y = -0.6 * x + rng.normal(0, 0.8, 480)
    found = within.correlation(level + x, level + y, questions, questions)
    centred = [v - np.repeat(v.reshape(60, 8).mean(axis=1), 8) for v in (x, y)]
    assert found.value == pytest.approx(np.corrcoef(*centred)[0, 1]) and found.low < found.value < found.high < 0
    assert np.corrcoef(level + x, level + y)[0, 1] > 0.9
    assert math.isnan(within.correlation([1.0, 1.0], [2.0, 3.0], ["a", "a"], ["a", "a"]).value)


def test_components_of_a_balanced_design_are_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 4, 3)) + rng.normal(size=(5, 4, 1)) + 2 * rng.normal(size=(5, 1, 1))
    pictures, questions = np.indices(y.shape)[0].ravel().tolist(), [at // 3 for at in range(60)]
    seed = float(y.var(axis=2, ddof=1).mean())
    question = float(3 * y.mean(axis=2).var(axis=1, ddof=1).mean() - seed) / 3
    picture = float(y.mean(axis=(1, 2)).var(ddof=1)) - question / 4 - seed / 12
    found = components(y.ravel(), questions, pictures)
    assert found is not None
    assert (found.picture, found.question, found.seed) == pytest.approx((picture, question, seed))
    assert found.from_seeds == pytest.approx((seed / 3) / (picture + question + seed / 3))
    alone = components(y.ravel(), questions, questions)
    assert alone is not None and math.isnan(alone.picture)
    assert alone.question == pytest.approx(float(y.mean(axis=2).var(ddof=1)) - seed / 3)
    assert components([1.0, 0.0], ["a", "b"], ["a", "b"]) is None


def test_unequal_numbers_leave_the_components_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        values, questions, pictures = [], [], []
        for picture in range(25):
            above = rng.normal(0, 1.0)
            for question in range(rng.integers(1, 5)):
                level = above + rng.normal(0, 0.7)
                for _ in range(rng.integers(1, 5)):
                    values.append(level + rng.normal(0, 1.5))
                    questions.append((picture, question))
                    pictures.append(picture)
        one = components(values, questions, pictures)
        assert one is not None
        found.append((one.picture, one.question, one.seed))
    assert np.mean(found, axis=0) == pytest.approx([1.0, 0.49, 2.25], abs=0.12)


# ------------------------------------------------------------------ how many questions settle it


def test_questions_that_would_settle_a_difference_have_the_power() -> None:
    """Drawn again with as many questions, a difference of that size is shown in about four of five."""
    rng = np.random.default_rng(0)

    def run(n: int) -> statistics.Comparison:
        kinds = rng.choice([1, -1, 0], p=[0.16, 0.10, 0.74], size=n)
        a, b = (
            {str(i): float(k == 1) for i, k in enumerate(kinds)},
            {str(i): float(k == -1) for i, k in enumerate(kinds)},
        )
        return statistics.compare([("a", "b")], {"a": a, "b": b})[0]

    exact = (
        {f"q{i}": 1.0 if i < 48 else 0.0 for i in range(300)},
        {f"q{i}": 1.0 if 48 <= i < 78 else 0.0 for i in range(300)},
    )
    (seen,) = statistics.compare([("a", "b")], dict(zip("ab", exact, strict=True)))
    needed = statistics.questions_to_settle(seen)
    assert not seen.shown and needed is not None and 450 < needed < 650
    shown = sum(run(needed).shown for _ in range(300)) / 300
    assert 0.7 < shown < 0.9
    (alike,) = statistics.compare([("a", "a2")], {"a": exact[0], "a2": exact[0]})
    assert statistics.questions_to_settle(alike) is None
