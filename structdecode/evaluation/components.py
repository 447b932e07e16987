"""Components of variance: how much of the spread of answers lies between pictures, questions and seeds.

Nested random effects, unequal numbers allowed, by the method of moments: mean squares of the nested analysis of variance are
set equal to their expectations (Searle, Casella and McCulloch 1992, *Variance Components*, section 3.6 and appendix F.1).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from structdecode.evaluation.clusters import members


@dataclass(frozen=True)
class Components:
    """Variances; negative estimates are 0.

    Attributes:
        picture: between clusters of questions; NaN where no two questions share one: it is in ``question`` then.
        question: between questions of one cluster. seed: between answers to one question.
        seeds: mean answers a question.
    """

    picture: float
    question: float
    seed: float
    seeds: float

    @property
    def between(self) -> float:
        """Of questions, their pictures' included."""
        return self.question + (0.0 if math.isnan(self.picture) else self.picture)

    @property
    def from_seeds(self) -> float:
        """The share of the variance of a mean over questions that more seeds could take away; NaN where nothing varies."""
        within = self.seed / self.seeds
        total = self.between + within
        return within / total if total > 0 else math.nan


def components(values: ArrayLike, questions: Sequence[Hashable], clusters: Sequence[Hashable]) -> Components | None:
    """None where there are fewer than two questions, or no question with two values.

    Args:
        values: [n], such as right (1) or wrong (0). questions, clusters: [n]; a question is in one cluster.
    """
    y = np.asarray(values, dtype=float)
    of, group = members(questions, len(y)), members(clusters, len(y))
    total, n = len(y), np.bincount(of).astype(float)  # n: values of each question
    if len(n) < 2 or total == len(n):
        return None
    means = np.bincount(of, weights=y) / n
    cluster_of = np.zeros(len(n), dtype=np.int64)
    cluster_of[of] = group
    sizes = np.bincount(cluster_of, weights=n)  # values of each cluster
    middles = np.bincount(cluster_of, weights=n * means) / sizes
    seed = float(((y - means[of]) ** 2).sum()) / (total - len(n))
    squares = np.bincount(cluster_of, weights=n**2)
    apart = len(n) - len(sizes)
    if apart == 0:  # each question has a picture of its own
        mean_square = float((n * (means - y.mean()) ** 2).sum()) / (len(n) - 1)
        each = (total - float(squares.sum()) / total) / (len(n) - 1)
        return Components(math.nan, max(0.0, (mean_square - seed) / each), seed, total / len(n))
    inner = float((n * (means - middles[cluster_of]) ** 2).sum()) / apart
    each = (total - float((squares / sizes).sum())) / apart
    question = max(0.0, (inner - seed) / each)
    if len(sizes) < 2:
        return Components(math.nan, question, seed, total / len(n))
    outer = float((sizes * (middles - y.mean()) ** 2).sum()) / (len(sizes) - 1)
    shared = (float((squares / sizes).sum()) - float(squares.sum()) / total) / (len(sizes) - 1)
    whole = (total - float((sizes**2).sum()) / total) / (len(sizes) - 1)
    picture = max(0.0, (outer - seed - shared * question) / whole)
    return Components(picture, question, seed, total / len(n))
