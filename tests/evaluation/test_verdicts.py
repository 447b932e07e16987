"""What a comparison is said to show, word by word, at the edges of what is shown."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from structdecode.core.errors import ConfigError
from structdecode.evaluation import statistics as st
from structdecode.evaluation.statistics import FEW, Comparison, Estimate

GAP = Estimate(0.1, 0.03, 0.04, 0.16, 200)
ONE = Comparison("a", "b", GAP, 30, 10, 0.002, 0.002, split=40)


def said(comparison: Comparison, seen: float | None = 0.05, **changes: object) -> str:
    return st.in_words(replace(comparison, **changes), seen)  # type: ignore[arg-type]


def test_one_that_is_shown() -> None:
    assert said(ONE) == "a beats b by 10.0 ± 3.0 points (95% CI 4.0 to 16.0, p = 0.002, n = 200)"
    down = Estimate(-0.1, 0.03, -0.16, -0.04, 200)
    assert said(ONE, difference=down) == "b beats a by 10.0 ± 3.0 points (95% CI 4.0 to 16.0, p = 0.002, n = 200)"
    assert said(ONE, family=2) == said(ONE).replace("p =", "Holm-corrected p =")
    assert said(ONE, difference=replace(GAP, clusters=50)) == said(ONE).replace("200)", "200 in 50 clusters)")
    assert said(ONE, difference=replace(GAP, clusters=200)) == said(ONE)


def test_no_standard_error_where_few_differ() -> None:
    assert said(ONE, split=FEW) == said(ONE)
    few = f"a beats b by 10.0 points (95% CI 4.0 to 16.0, p = 0.002, n = 200, {FEW - 1} of which differ: too few for a standard error)"
    assert said(ONE, split=FEW - 1) == few
    assert said(ONE, difference=replace(GAP, error=0.0)) == said(ONE).replace(" ± 3.0", "")


@pytest.mark.parametrize(
    ("seen", "strength"),
    [
        (0.05, "a true difference above 5.0 points would have been seen with 80% power at this n"),
        (None, "at this n no difference at all would have been seen with 80% power"),
        (math.nan, "they differ on too few questions to say what difference would have been seen"),
    ],
)
def test_one_that_is_not_shown(seen: float | None, strength: str) -> None:
    unsure = replace(ONE, p=0.2, p_holm=0.4)
    assert said(unsure, seen) == (
        f"no difference shown between a and b (10.0 ± 3.0 points, 95% CI 4.0 to 16.0, p = 0.400, n = 200; {strength})"
    )
    alone = f"n = 200; before correction the test does show one; {strength})"
    assert said(unsure, seen, p=0.049).endswith(alone) and not said(unsure, seen, p=0.05).endswith(alone)
    nought = Estimate(0.0, 0.03, -0.05, 0.06, 200)
    assert said(unsure, seen, difference=nought).startswith(
        "no difference shown between a and b (0.0 ± 3.0 points, 95% CI -5.0 to 6.0"
    )
    assert said(unsure, seen, p_holm=0.05).startswith("no difference") and said(unsure, seen, p_holm=0.0499).startswith(
        "a beats b"
    )


def test_nothing_to_compare() -> None:
    none = Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    assert said(ONE, difference=none) == st.verdict(replace(ONE, difference=none, p=1.0, p_holm=1.0))
    assert said(ONE, difference=none) == "nothing to compare: a and b share no question"


def test_small_p_values_are_bounds() -> None:
    assert [st.p_text(p) for p in (0.0, 0.00099, 0.001, 0.0456, 1.0)] == [
        "< 0.001",
        "< 0.001",
        "= 0.001",
        "= 0.046",
        "= 1.000",
    ]


def test_what_would_have_been_seen_is_what_the_test_at_hand_would_see() -> None:
    """Alone questions by the exact test's power, corrected for the family; clusters by the normal approximation."""
    unsure = replace(ONE, p=0.2, p_holm=0.4, family=3, only_a=24, only_b=16)
    exact = st.detectable(200, 40 / 200, 0.05 / 3)
    assert exact is not None and st.verdict(unsure) == st.in_words(unsure, exact)
    clustered = replace(unsure, difference=replace(GAP, clusters=50))
    z = stats.norm.ppf(1 - 0.05 / 6) + stats.norm.ppf(0.8)
    assert st.verdict(clustered) == st.in_words(clustered, z * 0.03)
    assert st.verdict(replace(clustered, split=FEW)) == st.in_words(replace(clustered, split=FEW), z * 0.03)
    for unknown in (
        replace(clustered, split=FEW - 1),
        replace(clustered, difference=replace(clustered.difference, error=0.0)),
    ):
        assert st.verdict(unknown) == st.in_words(unknown, math.nan)
    hopeless = replace(unsure, difference=replace(GAP, n=4), only_a=2, only_b=1)
    assert st.verdict(hopeless) == st.in_words(hopeless, None)
    corrected = replace(unsure, difference=replace(GAP, n=7), only_a=4, only_b=3, family=8)
    assert st.detectable(7, 1.0) is not None and st.verdict(corrected) == st.in_words(corrected, None)
    few = replace(unsure, difference=replace(GAP, clusters=7), family=8)
    assert st.verdict(few) == st.in_words(few, None), (
        "seven clusters show something alone, and nothing among eight comparisons"
    )
    split_thin = replace(unsure, difference=replace(GAP, n=200, clusters=4))
    assert st.verdict(split_thin) == st.in_words(split_thin, None), "four clusters show nothing, however many questions"


def test_paired_means_count_sides_and_clusters() -> None:
    ids = [f"q{i}" for i in range(12)]
    gaps = [0.5, -0.25, 2.0, 0.0, 0.25, -0.5, 0.0, 0.5, 0.25, -2.0, 0.75, 0.5]
    values = {"a": dict(zip(ids, gaps, strict=True)), "b": dict.fromkeys(ids, 0.0)}
    ((one, seen),) = st.paired_means([("a", "b")], values)
    assert (one.only_a, one.only_b, one.split, one.family, one.unpaired) == (7, 3, 10, 1, 0)
    assert one.difference.n == one.difference.groups == 12 and seen is not None and seen > 0
    pairs = dict(zip(ids, [k for k in "abcdef" for _ in "12"], strict=True))
    ((both, _),) = st.paired_means([("a", "b")], values, pairs)
    sums = np.array(gaps).reshape(6, 2).sum(axis=1)
    assert both.difference.groups == 6 and both.split == 6 and both.p != pytest.approx(one.p)
    assert both.difference.error == pytest.approx(float(np.sqrt(((sums - sums.mean()) ** 2).sum() * 6 / 5) / 12))
    ((none, nothing),) = st.paired_means([("a", "c")], {**values, "c": {"other": 1.0}})
    assert (none.difference.n, none.split, none.unpaired, nothing) == (0, 0, 13, None)
    ((_, alone),) = st.paired_means([("a", "b")], values, dict.fromkeys(ids, "one"))
    assert alone is None, "one cluster says nothing"
    ((_, two),) = st.paired_means([("a", "b")], values, dict(zip(ids, "xy" * 6, strict=True)))
    assert two is not None and math.isnan(two)


def test_an_auc_is_resampled_by_cluster_and_by_its_seed() -> None:
    rng = np.random.default_rng(1)
    questions = [(list(rng.random(2) + 0.2 * (i % 3)), list(rng.random(3))) for i in range(40)]
    questions[3] = (questions[3][0], [])
    alone, pairs = st.auc(questions)
    assert (alone.n, alone.groups, pairs) == (39, 39, 39 * 6)
    together, _ = st.auc(questions, [i // 8 for i in range(40)])
    assert together.groups == 5 and together.value == alone.value and together.error != alone.error
    assert st.auc(questions, seed=0)[0] == alone != st.auc(questions, seed=1)[0]
    ids = [f"q{i}" for i in range(60)]
    values = {name: dict(zip(ids, rng.random(60).tolist(), strict=True)) for name in "ab"}
    asked = [("a", "b")]
    ((default, _),), ((zero, _),), ((one, _),) = (
        st.paired_means(asked, values), st.paired_means(asked, values, seed=0), st.paired_means(asked, values, seed=1),
    )  # fmt: skip
    assert default == zero and zero.difference.low != one.difference.low


def test_pass_at_says_what_was_given() -> None:
    with pytest.raises(ConfigError, match="pass@4 needs at least 4 samples and right ones among them, not 1 of 3"):
        st.pass_at(4, 3, 1)
    assert st.pass_at(3, 5, 3) == 1.0 and st.pass_at(2, 5, 3) == pytest.approx(0.9) and st.pass_at(2, 5, 0) == 0.0


def test_a_difference_is_paired_clustered_and_seeded() -> None:
    a, b = [True, True, False, True, True, False], [False, True, False, False, 0.5, True]
    clusters = ["x", "x", "y", "y", "z", "z"]
    gaps = [1.0, 0.0, 0.0, 1.0, 0.5, -1.0]
    assert st.difference(a, b) == st.mean_gap(gaps) and st.difference(a, b, clusters, seed=3) == st.mean_gap(
        gaps, clusters, seed=3
    )
    assert st.difference(a, b, clusters).groups == 3 and st.difference(a, b).groups == 6
    rng = np.random.default_rng(0)
    many, others = rng.random(50), rng.random(50)
    assert st.difference(many, others, seed=0) == st.difference(many, others) != st.difference(many, others, seed=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the same questions, not 6 and 5"):
        st.difference(a, b[:5])
    by_id = [dict(zip("abcdef", map(float, values), strict=True)) for values in (a, b)]
    of = dict(zip("abcdef", clusters, strict=True))
    (one,), (other,) = (st.compare([("a", "b")], {"a": by_id[0], "b": by_id[1]}, keys, seed=4) for keys in (of, None))
    assert one.difference == st.mean_gap(gaps, clusters, seed=4) and other.difference == st.mean_gap(gaps, seed=4)
    assert (one.only_a, one.only_b, one.split, other.split) == (3, 1, 3, 4)
    assert st.compare([("a", "b")], {"a": by_id[0], "b": by_id[1]}) == st.compare(
        [("a", "b")], {"a": by_id[0], "b": by_id[1]}, seed=0
    )


def test_the_smallest_sample_that_shows_something() -> None:
    """Six against none is p = 0.031: five questions can show nothing, and a family of eight needs nine."""
    assert [st.detectable(n, 1.0) is not None for n in (5, 6)] == [False, True]
    assert [st.detectable(n, 1.0, 0.05 / 8) is not None for n in (8, 9)] == [False, True]


def test_nothing_is_estimated_from_nothing() -> None:
    for found in (st.mean([]), st.mean_gap([]), st.difference([], [])):
        assert all(math.isnan(x) for x in (found.value, found.error, found.low, found.high)) and (
            found.n,
            found.clusters,
        ) == (0, 0)


def test_power_at_its_edges() -> None:
    assert st.power(0.5, 0.5, 0) == st.power(0.0, 0.0, 100) == 0.0 and st.power(1.0, 1.0, 1) == 0.0
    assert st.power(1.0, 1.0, 6) == pytest.approx(1.0) and st.power(0.3, 0.2, 400) == pytest.approx(1.0)
    assert 0 < st.power(0.05, 0.1, 100) < st.power(0.05, 0.1, 200) < 1


def test_random_flips_are_drawn_by_the_seed() -> None:
    """Of differences without a common fraction: the exact law cannot be counted out."""
    rng = np.random.default_rng(3)
    ids = [f"q{i}" for i in range(40)]
    values = {name: dict(zip(ids, (rng.random(40) * math.pi).tolist(), strict=True)) for name in "ab"}
    (default,), (zero,), (one,) = (
        st.compare([("a", "b")], values), st.compare([("a", "b")], values, seed=0), st.compare([("a", "b")], values, seed=1),
    )  # fmt: skip
    assert default == zero and zero.p != one.p and zero.p == pytest.approx(one.p, abs=0.03)
    ((nothing,),) = (st.compare([("a", "c")], {**values, "c": {}}),)
    assert (nothing.split, nothing.p, nothing.difference.n) == (0, 1.0, 0)


def test_figures_that_are_all_the_same() -> None:
    """No interval from a bootstrap without width; shares have Wilson's, gaps what so many clusters can rule out."""
    keys = ["x", "x", "y"]
    same = st.mean([0.5, 0.5, 0.5], keys)
    assert (
        (same.value, same.error, same.n, same.clusters) == (0.5, 0.0, 3, 2)
        and math.isnan(same.low)
        and math.isnan(same.high)
    )
    share = st.mean([1.0] * 20)
    wilson = stats.binomtest(20, 20).proportion_ci(0.95, "wilson")
    assert (share.low, share.high) == pytest.approx((wilson.low, 1.0)) and share.clusters == 20
    reach = 1 - stats.binomtest(30, 30).proportion_ci(0.95, "wilson").low
    gap = st.mean_gap([0.25] * 30)
    assert (gap.low, gap.high) == pytest.approx((0.25 - 1.25 * reach, 0.25 + 1.25 * reach)) and (
        gap.n,
        gap.clusters,
    ) == (30, 30)
    assert st.mean_gap([1.0] * 3).high == 1.0 and st.mean_gap([-1.0] * 3).low == -1.0
    assert st.mean_gap([0.1 + 0.2 - 0.3] * 5).value == 0.0
    nothing = st.ratio([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], ["x", "x", "y"])
    assert math.isnan(nothing.value) and math.isnan(nothing.high) and (nothing.n, nothing.clusters) == (3, 2)
    values = np.random.default_rng(2).random(40)
    for figure in (st.mean, st.mean_gap):
        assert figure(values) == figure(values, seed=0) != figure(values, seed=1)
    drawn = [st.ratio(values, values + 1, **seed) for seed in ({}, {"seed": 0}, {"seed": 1})]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_ratio_that_is_one_in_all_clusters_has_wilsons_interval_on_those_that_count() -> None:
    for numerators, value in (([2.0, 3.0, 0.0, 1.0], 1.0), ([0.0] * 4, 0.0)):
        found = st.ratio(numerators, [2.0, 3.0, 0.0, 1.0], ["x", "y", "z", "w"])
        wilson = stats.binomtest(int(3 * value), 3).proportion_ci(0.95, "wilson")
        assert (found.value, found.low, found.high) == pytest.approx((value, wilson.low, wilson.high))
        assert math.isnan(found.error) and (found.n, found.clusters) == (4, 4)
    half = st.ratio([1.0, 2.0], [2.0, 4.0])
    assert half.value == 0.5 and math.isnan(half.error) and math.isnan(half.low) and math.isnan(half.high)
    near = st.ratio([1.0, 2.0 + 1e-6], [2.0, 4.0])
    assert not math.isnan(near.error), "not the same"


def test_mcnemars_p() -> None:
    assert st.mcnemar(0, 0) == st.mcnemar(5, 5) == 1.0
    assert st.mcnemar(0, 6) == st.mcnemar(6, 0) == pytest.approx(2 * 0.5**6) and st.power(1.0, 1.0, 1) == 0.0
