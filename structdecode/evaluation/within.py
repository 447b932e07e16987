"""How two things go together within a question, whatever lies between questions: AUC, ties and correlation, by cluster."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdecode.evaluation import statistics
from structdecode.evaluation.clusters import members
from structdecode.evaluation.statistics import CONFIDENCE, FEW, Estimate

RESAMPLES = 2_000


@dataclass(frozen=True)
class Discrimination:
    """How well scores tell right from wrong within a question.

    Attributes:
        auc: how often a right candidate is scored above a wrong one of the same question, ties as half; ``n`` counts the
            questions that have both. pairs: of a right and a wrong one. ties: the share of these that tie.
    """

    auc: Estimate
    pairs: float
    ties: float


def discrimination(
    questions: Sequence[tuple[Sequence[float], Sequence[float]]],
    clusters: Sequence[Hashable],
    *,
    resolution: float = 0.0,
    seed: int = 0,
) -> Discrimination:
    """Scores against what came of them.

    Args:
        questions: of each question its candidates' scores and how right each is, from 0 to 1: a candidate of which a
            share s is right makes, with one of which a share t is, s (1 - t) pairs of a right and a wrong one.
        clusters: of each question. resolution: differences of scores up to it tie, as in `Score.ties`.
    """
    found = [_pairs(np.asarray(s, dtype=float), np.asarray(r, dtype=float), resolution) for s, r in questions]
    known = [(pair, cluster) for pair, cluster in zip(found, clusters, strict=True) if pair[1] > 0]
    wins, pairs, ties = (np.array([pair[at] for pair, _ in known]) for at in range(3))
    auc = statistics.ratio(wins, pairs, [cluster for _, cluster in known], seed=seed)
    total = float(pairs.sum())
    return Discrimination(auc, total, float(ties.sum()) / total if total else math.nan)


def _pairs(scores: NDArray[np.float64], right: NDArray[np.float64], resolution: float) -> tuple[float, float, float]:
    """Won (ties as half), all, and tied pairs of one question."""
    weights = np.outer(right, 1 - right)
    np.fill_diagonal(weights, 0.0)
    gaps = scores[:, None] - scores[None, :]
    sizes = np.maximum(1.0, np.maximum(np.abs(scores)[:, None], np.abs(scores)[None, :]))
    tied = np.abs(gaps) <= resolution * sizes
    won = np.where(tied, 0.5, gaps > 0)
    return float((weights * won).sum()), float(weights.sum()), float((weights * tied).sum())


def correlation(
    x: ArrayLike, y: ArrayLike, questions: Sequence[Hashable], clusters: Sequence[Hashable], *, seed: int = 0
) -> Estimate:
    """Pearson's r of deviations from each question's mean, with the percentile bootstrap over clusters.

    Args:
        x, y: [n]. questions, clusters: [n].
    """
    of, groups = members(questions, len(questions)), members(clusters, len(clusters))
    if not len(of):
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
    a, b = (_centred(np.asarray(values, dtype=float), of) for values in (x, y))
    count = int(groups.max()) + 1
    sums = np.stack([np.bincount(groups, weights=w, minlength=count) for w in (a * b, a * a, b * b)])  # [3, clusters]
    value = float(_r(sums.sum(axis=1)))
    if math.isnan(value) or count < FEW:
        return Estimate(value, math.nan, math.nan, math.nan, int(of.max()) + 1, count)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    resampled = _r(sums @ drawn.T.astype(float))
    resampled = resampled[~np.isnan(resampled)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(resampled.std(ddof=1)), float(low), float(high), int(of.max()) + 1, count)


def _centred(values: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    means = np.bincount(of, weights=values) / np.bincount(of)
    return np.asarray(values - means[of])


def _r(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """From sums of xy, xx and yy; NaN where one does not vary. ``sums``: [3, ...]."""
    size = np.sqrt(np.maximum(sums[1] * sums[2], 0.0))
    return np.where(size > 1e-12, sums[0] / np.where(size > 1e-12, size, 1.0), math.nan)
