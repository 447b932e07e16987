from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

from structdecode.core.errors import ConfigError
from structdecode.evaluation import statistics as st
from structdecode.evaluation.clusters import members, sign_flip


def test_the_bootstrap_is_scipys() -> None:
    """The multinomial shortcut has the interval and error of drawing indices."""
    rng = np.random.default_rng(1)
    gaps = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=300)
    ours = st.mean(gaps, seed=3)
    theirs = stats.bootstrap((gaps,), np.mean, n_resamples=10_000, method="percentile", rng=rng)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)
    assert ours.error == pytest.approx(gaps.std(ddof=1) / math.sqrt(300), abs=1e-12)
    assert ours == st.mean(gaps, seed=3)


def test_the_interval_of_a_ratio_is_scipys() -> None:
    rng = np.random.default_rng(2)
    pairs = rng.integers(1, 9, size=200).astype(float)
    wins = np.array([rng.binomial(int(k), 0.7) for k in pairs], dtype=float)

    def of(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.sum(axis=axis) / b.sum(axis=axis)

    theirs = stats.bootstrap((wins, pairs), of, paired=True, n_resamples=10_000, method="percentile", rng=rng)
    ours = st.ratio(wins, pairs)
    assert ours.value == pytest.approx(wins.sum() / pairs.sum())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Accuracy and paired difference at n=300: 95 % of 1,000 simulated studies, within 3 standard errors of that."""
    rng = np.random.default_rng(0)
    covered = {"accuracy": 0, "difference": 0}
    for study in range(1_000):
        u = rng.random(300)
        a, b = u < 0.7, (u + 0.25 * rng.random(300) * (rng.random(300) < 0.5)) < 0.7
        truth = 0.7 - (0.7 - 0.5 * 0.125)  # b's threshold is moved down by 0.125 on average, half of the time
        one, gap = st.mean(a, seed=study), st.difference(list(a), list(b), seed=study)
        covered["accuracy"] += one.low <= 0.7 <= one.high
        covered["difference"] += gap.low <= truth <= gap.high
    for share in covered.values():
        assert 925 <= share <= 972


def test_intervals_have_width_where_all_agree() -> None:
    """Wilson for 20 of 20: 20 / (20 + 1.96^2) = 0.8389; one rule, so 1 of 60 is no narrower than 0 of 60."""
    every, none = st.mean([1] * 20), st.mean([0] * 20)
    assert every.low == pytest.approx(0.8389, abs=1e-4) and every.high == 1
    assert none.high == pytest.approx(0.1611, abs=1e-4) and none.low == 0
    same = st.difference([True] * 20, [True] * 20)
    assert same.value == 0 and same.high == -same.low == pytest.approx(0.1611, abs=1e-4)
    worse = st.difference([False] * 20, [True] * 20)
    assert (worse.value, worse.low) == (-1, -1) and worse.high == pytest.approx(2 * 0.1611 - 1, abs=1e-4)
    assert math.isnan(st.mean([]).value) and st.difference([], []).n == 0
    assert math.isnan(st.mean([1]).error) and st.mean([1]).low == pytest.approx(1 / (1 + 1.959964**2), abs=1e-4)
    widths = [found.high - found.low for found in (st.mean([1] * k + [0] * (60 - k)) for k in range(31))]
    assert widths == sorted(widths)
    one, _ = st.auc([([1.0, 2.0], [0.0])])
    assert one.value == 1 and math.isnan(one.error) and one.low < 0.3
    half = st.mean([0.5] * 5)
    assert (half.value, half.error) == (0.5, 0) and math.isnan(half.low)
    with pytest.raises(ConfigError, match="not 1 and 0"):
        st.difference([True], [])


def test_mcnemar_against_the_literature() -> None:
    """Exact two-sided p: by hand (2 * P(X <= 2 | 12) = 2 * 79 / 4096), and R's exact2x2 for 6 against 16."""
    assert st.mcnemar(2, 10) == st.mcnemar(10, 2) == pytest.approx(2 * 79 / 4096)
    assert st.mcnemar(6, 16) == pytest.approx(0.05248, abs=1e-5)
    assert st.mcnemar(0, 0) == 1 and st.mcnemar(5, 5) == 1


def test_holm_against_r() -> None:
    """`p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")` and an unsorted one."""
    assert st.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert st.holm([0.04, 0.001, 0.5]) == pytest.approx([0.08, 0.003, 0.5])
    assert st.holm([]) == []


@given(some.lists(some.floats(0, 1), min_size=1, max_size=30))
def test_holm_properties(p_values: list[float]) -> None:
    corrected = st.holm(p_values)
    for (p, q), (other, other_q) in itertools.product(zip(p_values, corrected, strict=True), repeat=2):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12
        assert p > other or q <= other_q + 1e-12
    assert min(corrected) == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_holm_holds_the_family_wise_error() -> None:
    """Ten equal cells against one: the share of 2,000 studies with any difference shown stays under 5 % (raw: above)."""
    rng = np.random.default_rng(5)
    raw = held = 0
    for _ in range(2_000):
        base = rng.random(200) < 0.6
        p_values = []
        for _ in range(10):
            flip = rng.random(200) < 0.3
            other = np.where(flip, rng.random(200) < 0.6, base)
            p_values.append(st.mcnemar(int((base & ~other).sum()), int((other & ~base).sum())))
        raw += min(p_values) < 0.05
        held += min(st.holm(p_values)) < 0.05
    assert held <= 100 + 3 * math.sqrt(2_000 * 0.05 * 0.95) and raw > 300


def test_power_is_what_simulation_finds() -> None:
    rng = np.random.default_rng(7)
    for effect, discordant, n in ((0.06, 0.2, 500), (0.1, 0.15, 120), (0.3, 0.3, 25)):
        split = rng.multinomial(n, [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant], size=4_000)
        found = np.mean([st.mcnemar(int(a), int(b)) < 0.05 for a, b, _ in split])
        assert st.power(effect, discordant, n) == pytest.approx(found, abs=0.025)
    assert st.power(0.0, 0.2, 500) <= 0.05  # the level is held


def test_the_detectable_difference() -> None:
    """Connor (1987)'s formula for 80 % power is close at n=500; more questions see less; five see nothing."""
    found = st.detectable(500, 0.2)
    assert found is not None
    by_formula = (1.96 * math.sqrt(0.2) + 0.8416 * math.sqrt(0.2 - found**2)) / math.sqrt(500)
    assert found == pytest.approx(by_formula, rel=0.06)
    assert st.power(found, 0.2, 500) >= 0.8 > st.power(found - 0.002, 0.2, 500)
    smaller, corrected = st.detectable(2_000, 0.2), st.detectable(500, 0.2, 0.05 / 20)
    assert smaller is not None and corrected is not None and smaller < found < corrected
    assert st.detectable(5, 0.5) is None and st.detectable(0, 0.0) is None
    assert st.detectable(500, 0.0) is not None


def test_pass_at_against_counting() -> None:
    """All subsets of k of n samples, counted (Chen et al. 2021); and the biased estimate is not what comes out."""
    for n, right in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1):
            if right <= n:
                subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
                assert st.pass_at(k, n, right) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert st.pass_at(10, 200, 20) == pytest.approx(0.6602, abs=1e-4) != pytest.approx(1 - 0.9**10, abs=1e-3)
    for k, n, right in ((0, 3, 1), (4, 3, 1), (1, 3, 4)):
        with pytest.raises(ConfigError):
            st.pass_at(k, n, right)


scores = some.lists(some.integers(-3, 3).map(float), max_size=6)


@settings(deadline=None)
@given(some.lists(some.tuples(scores, scores), max_size=6))
def test_auc_is_mann_whitney_within_questions(questions: list[tuple[list[float], list[float]]]) -> None:
    """U over the number of pairs, summed over questions; turning all scores round turns the figure round."""
    found, pairs = st.auc(questions)
    both = [(right, wrong) for right, wrong in questions if right and wrong]
    assert pairs == sum(len(right) * len(wrong) for right, wrong in both) and found.n == len(both)
    if not both:
        assert math.isnan(found.value)
        return
    u = sum(float(stats.mannwhitneyu(right, wrong).statistic) for right, wrong in both)
    assert found.value == pytest.approx(u / pairs)
    turned, _ = st.auc([([-x for x in right], [-x for x in wrong]) for right, wrong in questions])
    assert turned.value == pytest.approx(1 - found.value)
    assert found.low - 1e-12 <= found.value <= found.high + 1e-12 or found.n < 4


def test_comparisons_are_paired_by_question_and_corrected_together() -> None:
    ids = [f"q{i}" for i in range(100)]
    correct = {
        "good": dict.fromkeys(ids, True),
        "bad": {i: k >= 30 for k, i in enumerate(ids)},
        "late": {i: k >= 2 for k, i in enumerate(ids) if k < 60},
    }
    first, second = st.compare([("good", "bad"), ("late", "good")], correct)
    assert (first.only_a, first.only_b, first.unpaired, first.family) == (30, 0, 0, 2)
    assert first.difference.value == pytest.approx(0.3) and first.p_holm == pytest.approx(2 * 2 * 0.5**30)
    assert (second.only_a, second.only_b, second.unpaired, second.difference.n) == (0, 2, 40, 60)
    assert first.shown and not second.shown
    shuffled = {name: dict(reversed(list(found.items()))) for name, found in correct.items()}
    assert st.compare([("good", "bad"), ("late", "good")], shuffled) == [first, second]


def test_the_verdict_says_which_and_how_sure() -> None:
    ids = [str(i) for i in range(100)]
    correct = {
        "A": dict.fromkeys(ids, True),
        "B": {i: int(i) >= 30 for i in ids},
        "C": {i: int(i) >= 5 for i in ids},
        "D": {},
    }
    beaten, swapped, level, nothing = st.compare([("A", "B"), ("B", "A"), ("A", "C"), ("A", "D")], correct)
    assert st.verdict(beaten).startswith(
        "A beats B by 30.0 ± 4.6 points (95% CI 21.0 to 39.0, Holm-corrected p < 0.001"
    )
    assert st.verdict(swapped) == st.verdict(beaten)
    words = st.verdict(level)
    assert words.startswith("no difference shown between A and C (5.0 points, 95% CI 1.0 to ")
    seen = st.detectable(100, 0.05, 0.05 / 4)
    assert seen is not None and f"above {100 * seen:.1f} points would have been seen with 80% power" in words
    assert st.verdict(nothing) == "nothing to compare: A and D share no question"
    (small,) = st.compare([("A", "B")], {name: dict(list(c.items())[:4]) for name, c in correct.items()})
    assert "no difference at all would have been seen" in st.verdict(small)
    (alone,) = st.compare([("A", "E")], {**correct, "E": {i: int(i) >= 6 for i in ids}})
    assert "A beats E" in st.verdict(alone) and "Holm" not in st.verdict(alone)
    first, *_ = st.compare([("A", "E")] * 9, {**correct, "E": {i: int(i) >= 6 for i in ids}})
    assert "no difference shown" in st.verdict(first) and "before correction the test does show one" in st.verdict(
        first
    )


def test_paired_means_are_a_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(60), rng.random(60) * 0.6
    values = {"a": dict(enumerate_ids(a)), "b": dict(enumerate_ids(b)), "late": dict(enumerate_ids(a[:10]))}
    (first, seen), (same, nothing) = st.paired_means([("a", "b"), ("a", "late")], values)
    assert first.p == pytest.approx(float(stats.ttest_rel(a, b).pvalue)) and first.p_holm == min(1.0, 2 * first.p)
    assert first.difference.value == pytest.approx(float((a - b).mean())) and first.difference.n == 60
    assert seen == pytest.approx((2.2414 + 0.8416) * first.difference.error, rel=1e-3)  # z at 0.05 / 2 comparisons
    assert (same.p, same.difference.value, same.unpaired) == (1.0, 0.0, 50) and nothing is not None
    assert math.isnan(nothing) and "too few questions to say" in st.in_words(same, nothing)
    assert st.in_words(first, seen).startswith("a beats b by")


def enumerate_ids(numbers: np.ndarray) -> list[tuple[str, float]]:
    return [(f"q{i}", float(x)) for i, x in enumerate(numbers)]


def test_gaps_that_are_all_nought_are_uncertain_to_both_sides() -> None:
    ((same, _),) = st.paired_means([("a", "b")], {name: dict.fromkeys("xyz", 0.5) for name in "ab"})
    assert same.difference.low == -same.difference.high < 0 and same.p == 1


def clustered(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Right or wrong by two cells, on 1 to 6 questions a picture, which are hard or easy together."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 7, size=count)
    ease = np.repeat(rng.choice([0.15, 0.95], size=count), size)
    keys = [f"picture {i}" for i in np.repeat(np.arange(count), size)]
    return rng.random(len(ease)) < ease, rng.random(len(ease)) < ease * 0.8, keys


def test_clustered_errors_are_millers_formula() -> None:
    """Miller 2024's double sum over the pairs of a cluster, written out, with the G / (G - 1) of few clusters."""
    a, b, keys = clustered(1)
    for values in (a.astype(float), a.astype(float) - b):
        n, groups, centred = len(values), len(set(keys)), values - values.mean()
        total = sum(
            centred[i] * centred[j] for i, j in itertools.product(range(n), repeat=2) if keys[i] == keys[j]
        )  # fmt: skip
        expected = math.sqrt(total / n**2 * groups / (groups - 1))
        for found in (st.mean(values, keys), st.mean_gap(values, keys)):
            assert found.error == pytest.approx(expected, rel=1e-9) and (found.n, found.groups) == (n, groups)
            assert found.error > 1.2 * values.std(ddof=1) / math.sqrt(n) or values.min() < 0
        alone = [str(i) for i in range(n)]
        assert st.mean(values, alone) == st.mean(values)
        assert st.mean(values, alone).error == pytest.approx(values.std(ddof=1) / math.sqrt(n), rel=1e-12)


def test_the_cluster_bootstrap_draws_whole_clusters() -> None:
    a, b, keys = clustered(2)
    gaps, names = a.astype(float) - b, list(dict.fromkeys(keys))
    groups = [gaps[[key == name for key in keys]] for name in names]
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(4_000)]
    low, high = np.quantile([d.mean() for d in drawn], [0.025, 0.975])
    found = st.difference(list(a), list(b), keys)
    assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)


def test_clustered_intervals_cover_and_naive_ones_do_not() -> None:
    covered = naive = rejected = mistaken = 0
    for study in range(300):
        a, _, keys = clustered(study)
        rng = np.random.default_rng(10_000 + study)
        mine, plain = st.mean(a, keys), st.mean(a)
        covered += mine.low <= 0.55 <= mine.high
        naive += plain.low <= 0.55 <= plain.high
        side = dict(zip(dict.fromkeys(keys), rng.random(60) < 0.5, strict=False))  # who gets a picture's questions
        ids = [str(i) for i in range(len(keys))]
        correct = {
            "a": {i: bool(side[k]) for i, k in zip(ids, keys, strict=True)},
            "b": {i: not side[k] for i, k in zip(ids, keys, strict=True)},
        }
        (one,) = st.compare([("a", "b")], correct, dict(zip(ids, keys, strict=True)))
        rejected += one.p < 0.05
        mistaken += st.mcnemar(one.only_a, one.only_b) < 0.05
    assert covered >= 273 and naive < 255  # of 300: 95 % is 285
    assert rejected <= 27 and mistaken > 60  # 5 % is 15


def test_the_sign_flip_test_is_mcnemars_and_counts_all_flips() -> None:
    for only_a, only_b in ((2, 10), (6, 16), (0, 0), (5, 5), (0, 30)):
        gaps = np.array([1.0] * only_a + [-1.0] * only_b + [0.0] * 7)
        assert sign_flip(gaps, members(None, len(gaps))) == pytest.approx(st.mcnemar(only_a, only_b), abs=1e-12)
    keys = ["p", "p", "p", "q", "q", "r", "s"]
    gaps = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 1.0, -0.5])  # halves: two seeds
    by_key = [gaps[[k == key for k in keys]].sum() for key in "pqrs"]
    flips = [sum(s * d for s, d in zip(signs, by_key, strict=True)) for signs in itertools.product((1, -1), repeat=4)]
    expected = sum(abs(f) >= abs(sum(by_key)) - 1e-9 for f in flips) / len(flips)
    assert sign_flip(gaps, members(keys, 7)) == pytest.approx(expected)
    odd = gaps * math.pi  # no common fraction: random flips
    assert sign_flip(odd, members(keys, 7)) == pytest.approx(expected, abs=0.02)


def test_no_more_is_claimed_than_few_differences_hold() -> None:
    """0.3 - 0.3 by two ways of adding is no difference, and one of 150 is no ground for what would have been seen."""
    ids = [f"q{i}" for i in range(150)]
    noisy = {"a": dict.fromkeys(ids, 0.1 + 0.2), "b": dict.fromkeys(ids, 0.3)}
    one = {"a": dict.fromkeys(ids, 1.0), "b": {i: 0.99 if k == 0 else 1.0 for k, i in enumerate(ids)}}
    for values in (noisy, one):
        ((found, seen),) = st.paired_means([("a", "b")], values)
        words = st.in_words(found, seen)
        assert "±" not in words and "above 0.0" not in words and "too few" in words
