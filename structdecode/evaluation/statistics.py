"""How sure a figure is, and whether one cell of a study beats another.

Everything is paired by question and resampled by question, since the candidates of one question are not
independent of each other. An interval is drawn from the seed alone, so the same records give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdecode.errors import ConfigError, MissingExtraError

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05
"""Probability of calling a difference where there is none, over a whole table of comparisons."""
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and its 95 % confidence interval; NaN where there is nothing to estimate from.

    Attributes:
        n: questions that it rests on.
    """

    value: float
    error: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Two cells on the questions that both were asked.

    Attributes:
        difference: accuracy of ``a`` less that of ``b``, in shares.
        only_a, only_b: questions that only this one got right. p: of the exact McNemar test, two-sided.
        p_holm: the same, corrected for ``family`` comparisons made together.
        unpaired: questions that only one of the two was asked; they are left out.
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

    @property
    def shown(self) -> bool:
        """Whether a difference is shown, after correction."""
        return self.p_holm < LEVEL


def mean(values: ArrayLike, *, seed: int = 0) -> Estimate:
    """The mean over questions with its bootstrap interval. ``values``: [n], such as right (1) or wrong (0).

    Where all n are equal the bootstrap has no width. Shares (all 0 or all 1) then get the exact interval of Clopper
    and Pearson (1934); anything else has none.
    """
    numbers = np.asarray(values, dtype=float)
    found = ratio(numbers, np.ones_like(numbers), seed=seed)
    n = len(numbers)
    error = float(numbers.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    low, high = found.low, found.high
    if n and found.value in (0.0, 1.0) and bool(np.all(numbers == found.value)):
        exact = _scipy().binomtest(int(numbers.sum()), n).proportion_ci(CONFIDENCE, method="exact")
        low, high = float(exact.low), float(exact.high)
    return Estimate(found.value, error, low, high, n)


def ratio(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Estimate:
    """sum(numerators) / sum(denominators) with the percentile bootstrap over questions (Efron and Tibshirani 1993).

    Both: [n], one a question. Equal questions are drawn together: how often each kind comes up in a resample of n is
    multinomial, which is the same bootstrap as drawing n indices, at a fraction of the work.
    """
    pairs = np.stack([np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)], axis=1)  # [n, 2]
    n, total = len(pairs), pairs[:, 1].sum() if len(pairs) else 0.0
    if total == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, n)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)  # [k, 2], [k]
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)  # [RESAMPLES, k]
    sums = drawn @ kinds  # [RESAMPLES, 2]
    resampled = sums[sums[:, 1] != 0]
    ratios = resampled[:, 0] / resampled[:, 1]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(float(pairs[:, 0].sum() / total), float(ratios.std(ddof=1)), float(low), float(high), n)


def difference(a: Sequence[bool], b: Sequence[bool], *, seed: int = 0) -> Estimate:
    """Accuracy of ``a`` less accuracy of ``b`` on the same questions, in the same order, by the paired bootstrap.

    Raises:
        ConfigError: the two are not equally long.
    """
    if len(a) != len(b):
        raise ConfigError(f"a paired comparison needs the same questions, not {len(a)} and {len(b)}")
    return mean_gap(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), seed=seed)


def mean_gap(gaps: ArrayLike, *, seed: int = 0) -> Estimate:
    """The mean of paired differences. ``gaps``: [n], each from -1 to 1.

    Where they are the same on all questions the bootstrap has no width: then the interval is how rare another one can
    be said to be from n questions without it (Clopper and Pearson), to either side.
    """
    numbers = np.asarray(gaps, dtype=float)
    found = mean(numbers, seed=seed)
    if not len(numbers) or np.any(numbers != numbers[0]):
        return found
    rare = float(_scipy().binomtest(0, len(numbers)).proportion_ci(CONFIDENCE, method="exact").high)
    reach = rare * (1 + abs(found.value))  # one that is not there may be off by 1, or by 2
    return replace(found, low=max(-1.0, found.value - reach), high=min(1.0, found.value + reach))


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
    pairs: Sequence[tuple[str, str]], correct: Mapping[str, Mapping[str, bool]], *, seed: int = 0
) -> list[Comparison]:
    """All pairs of cells, on the questions they share, corrected together by Holm.

    Args:
        correct: by cell, by question id, whether it was right.
    """
    found: list[tuple[str, str, Estimate, int, int, int]] = []
    for a, b in pairs:
        common = sorted(correct[a].keys() & correct[b].keys())
        ours, theirs = [correct[a][i] for i in common], [correct[b][i] for i in common]
        only_a = sum(x and not y for x, y in zip(ours, theirs, strict=True))
        only_b = sum(y and not x for x, y in zip(ours, theirs, strict=True))
        unpaired = len(correct[a].keys() ^ correct[b].keys())
        found.append((a, b, difference(ours, theirs, seed=seed), only_a, only_b, unpaired))
    p_values = [mcnemar(only_a, only_b) for _, _, _, only_a, only_b, _ in found]
    return [
        Comparison(a, b, gap, only_a, only_b, p, corrected, len(found), unpaired)
        for (a, b, gap, only_a, only_b, unpaired), p, corrected in zip(found, p_values, holm(p_values), strict=True)
    ]


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
    return in_words(comparison, detectable(gap.n, discordant, LEVEL / comparison.family))


def in_words(comparison: Comparison, seen: float | None) -> str:
    """The same, with the smallest true difference that would have been seen given (None: none would)."""
    gap = comparison.difference
    if not gap.n:
        return f"nothing to compare: {comparison.a} and {comparison.b} share no question"
    a, b = (comparison.a, comparison.b) if gap.value >= 0 else (comparison.b, comparison.a)
    low, high = (gap.low, gap.high) if gap.value >= 0 else (-gap.high, -gap.low)
    interval = f"95% CI {100 * low:.1f} to {100 * high:.1f}"
    size = f"{100 * abs(gap.value):.1f} ± {100 * gap.error:.1f} points"
    chance = f"{'Holm-corrected ' if comparison.family > 1 else ''}p {p_text(comparison.p_holm)}, n = {gap.n}"
    if comparison.shown:
        return f"{a} beats {b} by {size} ({interval}, {chance})"
    strength = (
        "at this n no difference at all would have been seen with 80% power"
        if seen is None
        else f"a true difference above {100 * seen:.1f} points would have been seen with 80% power at this n"
    )
    alone = " before correction the test does show one;" if comparison.p < LEVEL else ""
    return f"no difference shown between {a} and {b} ({size}, {interval}, {chance};{alone} {strength})"


def paired_means(
    pairs: Sequence[tuple[str, str]], values: Mapping[str, Mapping[str, float]], *, seed: int = 0
) -> list[tuple[Comparison, float | None]]:
    """As `compare`, of figures that are not just right or wrong: by the paired t-test, and Holm.

    Args:
        values: by name, by question id.

    Returns:
        Each comparison with the smallest true difference that 80 % power would have seen (normal approximation).
    """
    stats = _scipy()
    found: list[tuple[str, str, Estimate, int, int, int, float]] = []
    for a, b in pairs:
        common = sorted(values[a].keys() & values[b].keys())
        gaps = np.array([values[a][i] - values[b][i] for i in common])
        flat = len(gaps) < 2 or bool(np.all(gaps == gaps[0]))
        p = 1.0 if flat else float(stats.ttest_1samp(gaps, 0.0).pvalue)
        unpaired = len(values[a].keys() ^ values[b].keys())
        found.append((a, b, mean_gap(gaps, seed=seed), int((gaps > 0).sum()), int((gaps < 0).sum()), unpaired, p))
    corrected = holm([p for *_, p in found])
    reach = float(stats.norm.isf(LEVEL / (2 * max(1, len(found)))) + stats.norm.ppf(POWER))
    return [
        (Comparison(a, b, gap, x, y, p, q, len(found), unpaired), reach * gap.error if gap.error > 0 else None)
        for (a, b, gap, x, y, unpaired, p), q in zip(found, corrected, strict=True)
    ]


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


def auc(questions: Sequence[tuple[Sequence[float], Sequence[float]]], *, seed: int = 0) -> tuple[Estimate, int]:
    """How often a right candidate is scored above a wrong one of the same question, ties as half; 0.5 is chance.

    Args:
        questions: of each question the scores of its right and of its wrong candidates.

    Returns:
        The estimate over the n questions that have both, and the number of pairs.
    """
    wins: list[float] = []
    pairs: list[int] = []
    for right, wrong in questions:
        if right and wrong:
            wins.append(sum((x > y) + 0.5 * (x == y) for x in right for y in wrong))
            pairs.append(len(right) * len(wrong))
    return ratio(wins, pairs, seed=seed) if pairs else Estimate(math.nan, math.nan, math.nan, math.nan, 0), sum(pairs)


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    return stats
