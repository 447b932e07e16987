"""How sure a figure is, and whether one cell of a study beats another.

Everything is paired by question and resampled by cluster of questions (those about one picture, say; see `clusters`),
since the candidates of one question, and questions about one picture, are not independent of each other. Shares have
Wilson's interval, other figures a bootstrap's. It is drawn from the seed alone, so the same records give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.evaluation.clusters import effective_size, members, sign_flip, standard_error, sums, wilson

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05
"""Probability of calling a difference where there is none, over a whole table of comparisons."""
POWER = 0.8
FEW = 10
"""With fewer clusters (or, for a difference, fewer that differ) a standard error is no guide to the truth: none is shown."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and its 95 % confidence interval; NaN where there is nothing to estimate from.

    Attributes:
        n: questions (or answers) that it rests on. clusters: independent groups of them; None: each is its own.
    """

    value: float
    error: float
    low: float
    high: float
    n: int
    clusters: int | None = None

    @property
    def groups(self) -> int:
        """Independent groups of questions."""
        return self.n if self.clusters is None else self.clusters


@dataclass(frozen=True)
class Comparison:
    """Two cells on the questions that both were asked.

    Attributes:
        difference: accuracy of ``a`` less that of ``b``, in shares.
        only_a, only_b: questions that this one got right and the other did not (or in fewer of its seeds).
        p: of the exact sign-flip test of clusters, two-sided; with one question a cluster that is McNemar's.
        p_holm: the same, corrected for ``family`` comparisons made together.
        unpaired: questions that only one of the two was asked; they are left out.
        split: clusters on which the two differ.
    """

    a: str
    b: str
    difference: Estimate
    only_a: int
    only_b: int
    p: float
    p_holm: float
    family: int = 1
    unpaired: int = 0
    split: int = 0

    @property
    def shown(self) -> bool:
        """Whether a difference is shown, after correction."""
        return self.p_holm < LEVEL


def mean(values: ArrayLike, clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """The mean with its cluster-robust standard error.

    Shares (each value 0 or 1) have Wilson's interval on the effective number of values; others the percentile bootstrap
    over clusters, and none where all are the same.

    Args:
        values: [n], such as right (1) or wrong (0). clusters: [n], the cluster of each; None: each its own.
    """
    numbers = np.asarray(values, dtype=float)
    of = members(clusters, len(numbers))
    if not len(numbers):
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    value, error, groups = float(numbers.mean()), standard_error(numbers, of), int(of.max()) + 1
    if np.all((numbers == 0) | (numbers == 1)):
        return Estimate(value, error, *wilson(value, effective_size(numbers, of), CONFIDENCE), len(numbers), groups)
    found = ratio(numbers, np.ones_like(numbers), clusters, seed=seed)
    return replace(found, error=error)


def ratio(
    numerators: ArrayLike, denominators: ArrayLike, clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """sum(numerators) / sum(denominators), percentile bootstrap over clusters (Efron and Tibshirani 1993).

    Both: [n], one a question. Equal clusters are drawn together: how often each kind comes up in a resample is
    multinomial, which is the same bootstrap as drawing indices, at a fraction of the work. A ratio from 0 to 1 that is the
    same in all clusters has no error that could be told; at 0 or 1 it has Wilson's interval on the number of clusters.
    """
    over, under = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n, total = len(over), float(under.sum())
    of = members(clusters, n)
    if total == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, n, len(np.unique(of)))
    pairs = np.stack([sums(over, of), sums(under, of)], axis=1)  # [clusters, 2]
    groups, value = len(pairs), float(over.sum() / total)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)  # [k, 2], [k]
    known = kinds[kinds[:, 1] != 0]
    if np.allclose(known[:, 0] / known[:, 1], value, rtol=0, atol=1e-12):
        used = int((pairs[:, 1] != 0).sum())
        low, high = wilson(value, used, CONFIDENCE) if value in (0.0, 1.0) else (math.nan, math.nan)
        return Estimate(value, math.nan, low, high, n, groups)
    error, low, high = _bootstrap(tuple(map(tuple, kinds.tolist())), tuple(counts.tolist()), seed)
    return Estimate(value, error, low, high, n, groups)


@lru_cache(maxsize=65_536)
def _bootstrap(
    kinds: tuple[tuple[float, float], ...], counts: tuple[int, ...], seed: int
) -> tuple[float, float, float]:
    """Error and interval of `ratio`. Kept, since among many cells most pairs differ in the same numbers of questions."""
    groups = sum(counts)
    shares = np.array(counts) / groups
    drawn = np.random.default_rng(seed).multinomial(groups, shares, size=RESAMPLES)  # [RESAMPLES, k]
    resampled = drawn @ np.array(kinds)  # [RESAMPLES, 2]
    resampled = resampled[resampled[:, 1] != 0]
    ratios = resampled[:, 0] / resampled[:, 1]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(ratios.std(ddof=1)), float(low), float(high)


def difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """Accuracy of ``a`` less accuracy of ``b`` on the same questions, in the same order, by the paired bootstrap.

    Raises:
        ConfigError: the two are not equally long.
    """
    if len(a) != len(b):
        raise ConfigError(f"a paired comparison needs the same questions, not {len(a)} and {len(b)}")
    return mean_gap(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), clusters, seed=seed)


def mean_gap(gaps: ArrayLike, clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """The mean of paired differences, by the bootstrap over clusters. ``gaps``: [n], each from -1 to 1.

    Where they are the same on all questions the bootstrap has no width: then the interval is how rare another one can
    be said to be from so many clusters without it (Wilson's limit for none), to either side.
    """
    numbers = np.round(np.asarray(gaps, dtype=float), 12)  # 0.3 - 0.3 by two ways of summing is no difference
    of = members(clusters, len(numbers))
    error = standard_error(numbers, of)
    if not len(numbers):
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    value, groups = float(numbers.mean()), int(of.max()) + 1
    found = ratio(numbers, np.ones_like(numbers), clusters, seed=seed)
    if not math.isnan(found.error):
        return replace(found, error=error)
    reach = wilson(0.0, groups, CONFIDENCE)[1] * (1 + abs(value))  # one that is not there may be off by 1, or by 2
    return Estimate(value, error, max(-1.0, value - reach), min(1.0, value + reach), len(numbers), groups)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of the exact McNemar test (1947): are the discordant questions as often a's as b's?"""
    if only_a + only_b == 0:
        return 1.0
    return float(_scipy().binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values, in the same order (Holm 1979): all of them at once err with at most the level asked for."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected


def compare(
    pairs: Sequence[tuple[str, str]],
    correct: Mapping[str, Mapping[str, float]],
    clusters: Mapping[str, Hashable] | None = None,
    *,
    seed: int = 0,
) -> list[Comparison]:
    """All pairs of cells, on the questions they share, corrected together by Holm.

    Args:
        correct: by cell, by question id, whether it was right (or in what share of the seeds).
        clusters: by question id its cluster; a question without one is its own.
    """
    found: list[Comparison] = []
    for a, b in pairs:
        gap, gaps, of = _paired(correct[a], correct[b], clusters, seed)
        unpaired = len(correct[a].keys() ^ correct[b].keys())
        split = int((np.abs(sums(np.abs(gaps), of)) > 0).sum()) if len(gaps) else 0
        p = sign_flip(gaps, of, seed=seed)
        found.append(Comparison(a, b, gap, int((gaps > 0).sum()), int((gaps < 0).sum()), p, p, 1, unpaired, split))
    return _corrected(found)


def _paired(
    ours: Mapping[str, float], theirs: Mapping[str, float], clusters: Mapping[str, Hashable] | None, seed: int
) -> tuple[Estimate, NDArray[np.float64], NDArray[np.int64]]:
    """The mean difference on the questions both have, the differences one by one [n], and their clusters [n]."""
    common = sorted(ours.keys() & theirs.keys())
    gaps = np.round(np.array([float(ours[i]) - float(theirs[i]) for i in common]), 12)
    keys = [(clusters or {}).get(i, ("", i)) for i in common]
    return mean_gap(gaps, keys, seed=seed), gaps, members(keys, len(keys))


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    p_values = holm([one.p for one in found])
    return [replace(one, p_holm=p, family=len(found)) for one, p in zip(found, p_values, strict=True)]


def power(effect: float, discordant: float, n: int, level: float = LEVEL) -> float:
    """Exact probability that the exact McNemar test on n questions shows a true difference of ``effect``.

    Args:
        effect: difference of the two accuracies. discordant: share of questions on which the two differ; at least
            ``effect``.
    """
    stats = _scipy()
    if n == 0 or discordant <= 0:
        return 0.0
    split = min(1.0, (discordant + effect) / (2 * discordant))  # of the discordant questions, those that a gets
    many = np.arange(n + 1)
    limits = _critical(n, level)
    rejected = stats.binom.cdf(limits, many, split) + stats.binom.sf(many - limits - 1, many, split)
    return float((stats.binom.pmf(many, n, discordant) * np.where(limits < 0, 0.0, rejected)).sum())


@lru_cache(maxsize=64)
def _critical(n: int, level: float) -> NDArray[np.int64]:
    """For each number of discordant questions from 0 to n, the most that the loser may win; -1: never rejects."""
    stats = _scipy()
    many = np.arange(n + 1)
    limits = stats.binom.ppf(level / 2, many, 0.5).astype(np.int64)
    too_many = 2 * stats.binom.cdf(limits, many, 0.5) >= level
    return np.asarray(np.where(too_many, limits - 1, limits), dtype=np.int64)


@lru_cache(maxsize=1024)
def detectable(n: int, discordant: float, level: float = LEVEL) -> float | None:
    """The smallest true difference that n questions would show with 80 % power; None where they could show none.

    Args:
        discordant: share of questions on which the two cells differed. A difference larger than that needs more of
            them, and gets them.
    """

    def enough(effect: float) -> bool:
        return power(effect, max(effect, discordant), n, level) >= POWER

    if not enough(1.0):
        return None
    low, high = 0.0, 1.0
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def verdict(comparison: Comparison) -> str:
    """What the comparison shows, in words."""
    gap = comparison.difference
    if comparison.shown or not gap.n:
        return in_words(comparison, None)
    discordant = (comparison.only_a + comparison.only_b) / gap.n
    level = LEVEL / comparison.family
    if detectable(gap.groups, 1.0, level) is None:
        return in_words(comparison, None)
    if gap.groups < gap.n:
        return in_words(comparison, _reach(comparison))
    return in_words(comparison, detectable(gap.n, discordant, level))


def _reach(comparison: Comparison) -> float:
    """The smallest true difference that 80 % power would have seen, by the normal approximation; NaN: cannot be told."""
    if comparison.split < FEW or not comparison.difference.error > 0:
        return math.nan
    normal = NormalDist()
    z = normal.inv_cdf(1 - LEVEL / (2 * comparison.family)) + normal.inv_cdf(POWER)
    return z * comparison.difference.error


def questions_to_settle(comparison: Comparison) -> int | None:
    """Questions with which a true difference as large as the one seen would be shown with 80 % power; None: cannot be told.

    By the normal approximation, with as many questions a cluster as there are, and as many comparisons made together. A
    difference that is shown already needs no more, so it has None, too.
    """
    gap, reach = comparison.difference, _reach(comparison)
    if comparison.shown or math.isnan(reach) or gap.value == 0:
        return None
    return math.ceil(gap.n * (reach / abs(gap.value)) ** 2)


def in_words(comparison: Comparison, seen: float | None) -> str:
    """The same, with the smallest true difference that would have been seen given (None: none would; NaN: unknown)."""
    gap = comparison.difference
    if not gap.n:
        return f"nothing to compare: {comparison.a} and {comparison.b} share no question"
    a, b = (comparison.a, comparison.b) if gap.value >= 0 else (comparison.b, comparison.a)
    low, high = (gap.low, gap.high) if gap.value >= 0 else (-gap.high, -gap.low)
    interval = f"95% CI {100 * low:.1f} to {100 * high:.1f}"
    sure = f" ± {100 * gap.error:.1f}" if comparison.split >= FEW and gap.error > 0 else ""
    size = f"{100 * abs(gap.value):.1f}{sure} points"
    few = "" if comparison.split >= FEW else f", {comparison.split} of which differ: too few for a standard error"
    many = f"n = {gap.n}" + (f" in {gap.groups} clusters" if gap.groups < gap.n else "") + few
    chance = f"{'Holm-corrected ' if comparison.family > 1 else ''}p {p_text(comparison.p_holm)}, {many}"
    if comparison.shown:
        return f"{a} beats {b} by {size} ({interval}, {chance})"
    strength = (
        "at this n no difference at all would have been seen with 80% power"
        if seen is None
        else "they differ on too few questions to say what difference would have been seen"
        if math.isnan(seen)
        else f"a true difference above {100 * seen:.1f} points would have been seen with 80% power at this n"
    )
    alone = " before correction the test does show one;" if comparison.p < LEVEL else ""
    return f"no difference shown between {a} and {b} ({size}, {interval}, {chance};{alone} {strength})"


def paired_means(
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Mapping[str, float]],
    clusters: Mapping[str, Hashable] | None = None,
    *,
    seed: int = 0,
) -> list[tuple[Comparison, float | None]]:
    """As `compare`, of figures that are not just right or wrong: by the paired t-test on the clustered error, and Holm.

    Args:
        values: by name, by question id.

    Returns:
        Each comparison with the smallest true difference that 80 % power would have seen (normal approximation); NaN
        where the two differ on fewer than `FEW` clusters, and None where they share fewer than two.
    """
    stats = _scipy()
    found: list[Comparison] = []
    for a, b in pairs:
        gap, gaps, of = _paired(values[a], values[b], clusters, seed)
        unpaired = len(values[a].keys() ^ values[b].keys())
        split = int((sums(np.abs(gaps), of) > 0).sum()) if len(gaps) else 0
        spread = gap.error > 0  # else the same difference everywhere, or one cluster: no t
        p = float(2 * stats.t.sf(abs(gap.value) / gap.error, gap.groups - 1)) if spread else sign_flip(gaps, of)
        found.append(Comparison(a, b, gap, int((gaps > 0).sum()), int((gaps < 0).sum()), p, p, 1, unpaired, split))
    return [(one, None if one.difference.groups < 2 else _reach(one)) for one in _corrected(found)]


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def pass_at(k: int, generated: int, right: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Args:
        generated: samples there are, at least k. right: how many of them are.

    Raises:
        ConfigError: k is not from 1 to ``generated``, or more are right than there are.
    """
    if not 1 <= k <= generated or not 0 <= right <= generated:
        raise ConfigError(f"pass@{k} needs at least {k} samples and right ones among them, not {right} of {generated}")
    if generated - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(generated - right + 1, generated + 1))


def auc(
    questions: Sequence[tuple[Sequence[float], Sequence[float]]],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> tuple[Estimate, int]:
    """How often a right candidate is scored above a wrong one of the same question, ties as half; 0.5 is chance.

    Args:
        questions: of each question the scores of its right and of its wrong candidates. clusters: of each question.

    Returns:
        The estimate over the n questions that have both, and the number of pairs.
    """
    wins: list[float] = []
    pairs: list[int] = []
    keys: list[Hashable] = []
    for at, (right, wrong) in enumerate(questions):
        if right and wrong:
            wins.append(sum((x > y) + 0.5 * (x == y) for x in right for y in wrong))
            pairs.append(len(right) * len(wrong))
            keys.append(at if clusters is None else clusters[at])
    return ratio(wins, pairs, keys, seed=seed), sum(pairs)


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    return stats
