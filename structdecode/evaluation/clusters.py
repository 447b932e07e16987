"""Questions that are not independent of each other: those about one picture, document or template are one cluster.

Between clusters there is independence, within one there need not be any. Where each question is its own cluster, every
figure here is the ordinary one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLIPS = 20_000
"""Random sign flips where the exact distribution cannot be counted out."""
_LARGEST = 200_000
"""The widest exact distribution that is counted out."""


def members(clusters: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """Number of the cluster of each of n values, from 0; ``None``: each its own."""
    if clusters is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def sums(values: ArrayLike, of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of each cluster's values. ``values``: [n]; ``of``: [n], as `members` gives it; returns [clusters]."""
    weights = np.asarray(values, dtype=float)
    return np.bincount(of, weights=weights, minlength=0).astype(np.float64)


def standard_error(values: ArrayLike, of: NDArray[np.int64]) -> float:
    """Cluster-robust standard error of the mean (Miller 2024, arXiv 2411.00640, section 2.2).

    sqrt(sum over clusters of (sum of the deviations from the mean)^2) / n, times sqrt(G / (G - 1)) for G clusters: so
    it is s / sqrt(n) where each value is its own cluster. NaN for fewer than two clusters.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) == 0 or (count := int(of.max()) + 1) < 2:
        return math.nan
    if np.all(numbers == numbers[0]):
        return 0.0
    deviations = sums(numbers - numbers.mean(), of)
    return float(math.sqrt(count / (count - 1) * float(deviations @ deviations)) / len(numbers))


def effective_size(values: ArrayLike, of: NDArray[np.int64]) -> float:
    """So many independent values would leave the mean as uncertain as these do; n or fewer.

    n divided by the design effect, the ratio of the clustered variance to the ordinary one (Kish 1965, section 8.2). Where
    all values are equal nothing can be learnt of the effect: then the number of clusters.
    """
    numbers = np.asarray(values, dtype=float)
    n = len(numbers)
    error = standard_error(numbers, of)
    if math.isnan(error) or error == 0:
        return float(int(of.max()) + 1) if n else 0.0
    ordinary = float(numbers.std(ddof=1)) / math.sqrt(n)
    return min(float(n), n * (ordinary / error) ** 2)


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), which has width at 0 and 1 too.

    Args:
        share: from 0 to 1. n: values that it rests on; for clustered ones the effective number (Korn and Graubard 1998).
    """
    if n <= 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if share == 0 else max(0.0, middle - reach)), (1.0 if share == 1 else min(1.0, middle + reach))


def sign_flip(gaps: ArrayLike, of: NDArray[np.int64], *, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test of paired differences, whole clusters flipped (Fisher 1935).

    Under the null hypothesis a cluster's summed difference is as likely to be its negative. Where these sums are
    multiples of a common fraction all flips are counted, exactly; with one right-or-wrong question a cluster that is
    the exact McNemar test. Otherwise `FLIPS` random ones are taken, the observed one among them.

    Args:
        gaps: [n] differences. of: [n] clusters, as `members` gives them.
    """
    found = sums(gaps, of)
    found = np.abs(found[np.abs(found) > 1e-12]) * np.sign(found[np.abs(found) > 1e-12])
    if len(found) == 0:
        return 1.0
    for scale in range(1, 61):
        scaled = found * scale
        whole = np.rint(scaled)
        if np.all(np.abs(scaled - whole) < 1e-6) and len(found) * np.abs(whole).sum() <= 100 * _LARGEST:
            sizes = np.sort(np.abs(whole)).astype(np.int64)
            return _exact(tuple(sizes.tolist()), abs(int(whole.sum())))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS - 1, len(found)))
    extreme = np.abs(signs @ found) >= abs(found.sum()) - 1e-9
    return float((1 + extreme.sum()) / FLIPS)


@lru_cache(maxsize=65_536)
def _exact(sizes: tuple[int, ...], observed: int) -> float:
    """P(|sum of +-sizes| >= observed) over all sign flips, by adding one cluster after the other."""
    if observed == 0:
        return 1.0
    total = sum(sizes)
    chances = np.zeros(2 * total + 1)  # chances[total + s]: of the sum s
    chances[total] = 1.0
    for size in sizes:
        chances = 0.5 * (np.roll(chances, size) + np.roll(chances, -size))
    return min(1.0, float(2 * chances[total + observed :].sum()))
