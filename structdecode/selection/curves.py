"""What a selector would have got from fewer of the same samples: a whole budget curve from one recording.

Samples are exchangeable, so any N of the n that were drawn are as good as N new ones; the mean over all subsets of N is the
unbiased estimate without replacement, as of pass@k (Chen et al. 2021, arXiv 2107.03374). Of a choice by rank it is a sum in closed
form; of other selectors it is enumerated where there are few subsets, else the mean over random ones, whose error is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from structdecode.core.seeds import derive
from structdecode.selection.selectors import Best, Sample, Selector, best_first, choose, needs_scores

ENUMERATED = 200
"""Subsets up to which all are looked at."""


@dataclass(frozen=True)
class Expected:
    """How often a choice from N of one question's samples is right, and the standard error of that where subsets were drawn at random."""

    value: float
    error: float = 0.0


def expected(
    selector: Selector, samples: Sequence[Sample], right: Sequence[bool], n: int, *, draws: int = 100, seed: int = 0
) -> Expected:
    """The share of subsets of ``n`` samples from which a right one is chosen.

    Args:
        right: of each sample whether it is right. n: from 1 to the number of samples.
        draws: random subsets where there are more than `ENUMERATED`. The same ones for every selector of the same seed.

    Raises:
        ValueError: ``n`` is out of range. ConfigError: as the selector.
    """
    if not 1 <= n <= len(samples):
        raise ValueError(f"{n} of {len(samples)} samples")
    if isinstance(selector, Best):
        return Expected(_by_rank(samples, right, n))
    if _nothing_to_choose(selector, samples, right):
        return Expected(float(right[0]))
    total = math.comb(len(samples), n)
    subsets: Iterable[Sequence[int]] = combinations(range(len(samples)), n)
    if total > ENUMERATED:
        subsets = _drawn(len(samples), n, draws, seed)
    found = [_is_right(selector, samples, right, subset) for subset in subsets]
    value = math.fsum(found) / len(found)
    error = math.sqrt(value * (1 - value) / len(found)) if total > ENUMERATED else 0.0
    return Expected(value, error)


def _nothing_to_choose(selector: Selector, samples: Sequence[Sample], right: Sequence[bool]) -> bool:
    """Whether all samples are right, or all wrong, and each of them could be chosen."""
    if len(set(right)) > 1 or any(s.answer is None for s in samples):
        return False
    known = not needs_scores(selector) or all(s.score.scored for s in samples)
    return known and choose(selector, samples) is not None


def rank_weights(samples: int, n: int) -> list[float]:
    """The chance of each rank, the best first, to be the best of ``n`` drawn without replacement: C(s-1-t, n-1) / C(s, n)."""
    total = math.comb(samples, n)
    return [math.comb(samples - 1 - place, n - 1) / total for place in range(samples)]


def _by_rank(samples: Sequence[Sample], right: Sequence[bool], n: int) -> float:
    """Those without an answer or a score come last, and are never chosen."""
    weights = rank_weights(len(samples), n)
    return math.fsum(weights[place] for place, at in enumerate(best_first(samples)) if right[at])


def _drawn(samples: int, n: int, draws: int, seed: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(derive(seed, "subsets", samples, n))
    for _ in range(draws):
        yield sorted(rng.permutation(samples)[:n].tolist())


def _is_right(selector: Selector, samples: Sequence[Sample], right: Sequence[bool], subset: Sequence[int]) -> bool:
    chosen = choose(selector, [samples[at] for at in subset])
    return chosen is not None and right[subset[chosen]]
