"""What a selector would have got from fewer samples, against counting all subsets and against drawing anew."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from structdecode.core.types import Score
from structdecode.selection import curves
from structdecode.selection.selectors import Best, Borda, Majority, Sample, Selector, Softmax, choose


def pool(seed: int, n: int = 8) -> tuple[list[Sample], list[bool]]:
    rng = np.random.default_rng(seed)
    answers = [None if rng.random() < 0.1 else "ABC"[int(k)] for k in rng.integers(0, 3, size=n)]
    scores = [
        Score.unscored("none") if rng.random() < 0.1 else Score(float(s), resolution=0.0)
        for s in rng.integers(0, 9, size=n) / 9
    ]
    return [Sample(a, s, str(a)) for a, s in zip(answers, scores, strict=True)], [answer == "A" for answer in answers]


def counted(selector: Selector, samples: list[Sample], right: list[bool], n: int) -> float:
    subsets = list(itertools.combinations(range(len(samples)), n))
    chosen = [choose(selector, [samples[i] for i in subset]) for subset in subsets]
    return sum(at is not None and right[subset[at]] for at, subset in zip(chosen, subsets, strict=True)) / len(subsets)


@pytest.mark.parametrize("selector", [Best(), Majority(), Softmax(), Borda()])
def test_all_subsets_are_counted(selector: Selector) -> None:
    for seed in range(40):
        samples, right = pool(seed)
        for n in range(1, 9):
            found = curves.expected(selector, samples, right, n)
            assert found.value == pytest.approx(counted(selector, samples, right, n)) and found.error == 0


def test_weights_of_ranks_are_chances() -> None:
    for samples, n in ((7, 3), (16, 4), (16, 16), (16, 1)):
        weights = curves.rank_weights(samples, n)
        assert sum(weights) == pytest.approx(1) and weights == sorted(weights, reverse=True)
        assert sum(w > 0 for w in weights) == samples - n + 1
    best = [min(subset) for subset in itertools.combinations(range(7), 3)]
    assert curves.rank_weights(7, 3) == pytest.approx([best.count(t) / len(best) for t in range(7)])


def test_random_subsets_are_the_same_for_every_selector_and_have_their_error() -> None:
    """C(16, 6) is 8,008: too many to look at all. Over many pools the mean is off by no more than it says."""
    off, variance = 0.0, 0.0
    for seed in range(60):
        samples, right = pool(seed, 16)
        found = curves.expected(Majority(), samples, right, 6, draws=50, seed=seed)
        assert found == curves.expected(Majority(), samples, right, 6, draws=50, seed=seed)
        again = curves.expected(Majority(), samples, right, 6, draws=2_000, seed=seed + 1)
        off += found.value - again.value
        variance += found.error**2 + again.error**2
    assert variance > 0 and abs(off) < 4 * math.sqrt(variance)
    assert list(curves._drawn(16, 6, 9, 4)) == list(curves._drawn(16, 6, 9, 4)) != list(curves._drawn(16, 6, 9, 5))


def test_it_is_without_bias() -> None:
    """Pools of 10 drawn from one law: the mean over pools of best-of-3 is that of drawing 3 anew; with replacement it is not."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[list[Sample], list[bool]]:
        right = rng.random(n) < 0.3
        scores = rng.normal(right * 1.0)
        return [
            Sample("A" if r else "B", Score(float(s), resolution=0.0)) for r, s in zip(right, scores, strict=True)
        ], right.tolist()

    def anew() -> bool:
        samples, right = draw(3)
        return right[choose(Best(), samples) or 0]

    direct = np.mean([anew() for _ in range(6_000)])
    pools = np.mean([curves.expected(Best(), *draw(10), 3).value for _ in range(3_000)])
    assert pools == pytest.approx(direct, abs=4 * math.sqrt(0.25 / 6_000 + 0.25 / 3_000))


@pytest.mark.parametrize("n", [0, 9])
def test_no_more_samples_than_there_are(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} of 8 samples"):
        curves.expected(Best(), *pool(0), n)
