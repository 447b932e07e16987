"""Selectors: which of several sampled answers to believe, from how often each was given and what a verifier makes of them.

A selector is a pure function of a pool of samples: it gives each a value, and the highest wins. Samples that give the same answer
(by the rules that match answers to references) have the same value where answers are voted on; the best scored of them stands for the
answer. A sample without an answer has no value, and where scores are asked for one without a score has no say.

Sources are named with each; the forms are those of scorio 0.2.3 (``scorio/aggregate``), against which the tests hold them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar, Literal, Protocol, runtime_checkable

from structdecode.core.border import said
from structdecode.core.errors import ConfigError
from structdecode.core.reading import short_repr
from structdecode.core.settings import check_settings
from structdecode.core.types import Score

Values = list[float | None]
_EXACT = Score(None)
COLDEST = 1e-6
"""The lowest temperature of a softmax: best-of-N, whatever the scores."""


@dataclass(frozen=True)
class Sample:
    """One finished answer.

    Attributes:
        answer: what it says, by a key that equal answers share; None for one that is malformed, empty or declines.
        score: what a verifier makes of it. text: the answer as it is written.
    """

    answer: Hashable | None
    score: Score = _EXACT
    text: str = ""

    @property
    def value(self) -> float:
        """The score's value. There has to be one."""
        assert self.score.value is not None
        return self.score.value


@runtime_checkable
class Selector(Protocol):
    """Values samples; see the module.

    Attributes:
        needs_scores: whether it makes anything of a verifier's scores.

    One whose values may change by more than the sum of the changes of its answer's scores says by how much:
    ``noise(samples, values, unsure) -> list[float]``, where ``unsure`` is how much of each score may be noise.
    """

    @property
    def needs_scores(self) -> bool: ...

    def __call__(self, samples: Sequence[Sample]) -> Values:
        """A value for each sample, in order.

        Raises:
            ConfigError: the scores are not what it needs (probabilities, say).
        """


def needs_scores(selector: Selector) -> bool:
    """Whether it makes anything of a verifier's scores; one of one's own that does not say so may."""
    return bool(getattr(selector, "needs_scores", True))


def choose(selector: Selector, samples: Sequence[Sample]) -> int | None:
    """The sample that is chosen: of the highest value, of these the best scored, of these the first; None where none has a value."""
    order = chosen_first(selector, samples)
    return order[0] if order else None


def chosen_first(selector: Selector, samples: Sequence[Sample]) -> list[int]:
    """Samples that have a value, the chosen one first."""
    values = settled(selector, samples)
    by_score = {at: place for place, at in enumerate(best_first(samples))}
    valued = [(at, value) for at, value in enumerate(values) if value is not None]
    return [at for at, value in sorted(valued, key=lambda v: (-v[1], by_score.get(v[0], len(samples)), v[0]))]


def settled(selector: Selector, samples: Sequence[Sample]) -> Values:
    """A selector's values, checked; those that differ by no more than the scores' noise (`Score.resolution`) made equal.

    Raises:
        ConfigError: the selector failed, or gave something else than a finite number or None for each sample.
    """
    values = _checked(selector, samples)
    noise = _noise(selector, samples, values)
    found, left = list(values), [(at, value) for at, value in enumerate(values) if value is not None]
    while left:
        top, best = max(left, key=lambda one: (one[1], -one[0]))
        tied = [at for at, value in left if at == top or value + noise[at] >= best - noise[top]]
        for at in tied:
            found[at] = best
        left = [one for one in left if one[0] not in tied]
    return found


def _checked(selector: Selector, samples: Sequence[Sample]) -> Values:
    name = type(selector).__name__
    if any(sample.score.value is not None and not math.isfinite(sample.score.value) for sample in samples):
        raise ConfigError(f"{name} cannot choose by scores that are not finite numbers")
    try:
        values = list(selector(samples))
    except ConfigError:
        raise
    except Exception as error:  # of one's own, or numbers beyond all floats
        raise ConfigError(f"selector {name} failed: {said(error)}") from error
    wrong = next((value for value in values if value is not None and not _finite(value)), None)
    if wrong is not None or len(values) != len(samples):
        gave = f"{len(values)} values for {len(samples)} samples" if wrong is None else short_repr(wrong)
        raise ConfigError(f"selector {name} gave {gave}: it is to give a finite number or None for each sample")
    return [None if value is None else float(value) for value in values]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _noise(selector: Selector, samples: Sequence[Sample], values: Values) -> list[float]:
    """How much of each value may be noise of the scores: a selector's own word on it, else the sum of its answer's scores' noise."""
    if not needs_scores(selector):
        return [0.0] * len(samples)
    unsure = [
        0.0 if s.score.value is None else max(1.0, abs(s.score.value)) * (s.score.resolution or 0.0) for s in samples
    ]
    own: Callable[[Sequence[Sample], Values, list[float]], list[float]] | None = getattr(selector, "noise", None)
    return _summed(samples, unsure) if own is None else own(samples, values, unsure)


def _summed(samples: Sequence[Sample], amounts: Sequence[float]) -> list[float]:
    sums: dict[Hashable | None, float] = defaultdict(float)
    for sample, amount in zip(samples, amounts, strict=True):
        sums[sample.answer] += amount
    return [sums[sample.answer] for sample in samples]


def best_first(samples: Sequence[Sample]) -> list[int]:
    """Those that have a score and an answer, best first. Scores that differ by noise alone are in the samples' order."""
    scores = [sample.score for sample in samples]
    left = [(at, s.score.value) for at, s in enumerate(samples) if s.score.value is not None and s.answer is not None]
    left.sort(key=lambda one: -one[1])
    alike = len({scores[at].resolution for at, _ in left}) <= 1
    tied_of = takewhile if alike else filter  # one of more noise may tie behind one that does not
    order: list[int] = []
    while left:
        best = scores[left[0][0]]
        tied = {at for at, _ in tied_of(lambda one: scores[one[0]].ties(best), left)}  # noqa: B023
        order += sorted(tied)
        left = [one for one in left if one[0] not in tied]
    return order


def by_answer(samples: Sequence[Sample], weights: Mapping[int, float]) -> Values:
    """The sum of its samples' weights for each answer that has any."""
    sums: dict[Hashable, list[float]] = defaultdict(list)
    for at, weight in weights.items():
        sums[samples[at].answer].append(weight)
    totals = {answer: math.fsum(each) for answer, each in sums.items()}
    return [totals.get(sample.answer) if sample.answer is not None else None for sample in samples]


def _groups(samples: Sequence[Sample], of: Sequence[int]) -> dict[Hashable, list[float]]:
    """Scores by answer."""
    found: dict[Hashable, list[float]] = defaultdict(list)
    for at in of:
        found[samples[at].answer].append(samples[at].value)
    return found


def _of_groups(samples: Sequence[Sample], value: Mapping[Hashable, float]) -> Values:
    return [value.get(sample.answer) if sample.answer is not None else None for sample in samples]


def _check_sums(name: str, values: Iterable[float]) -> None:
    """Raises `ConfigError` for negative ones: in a sum each would be held against its answer for being given."""
    lowest = min(values, default=0.0)
    if lowest < 0:
        raise ConfigError(
            f"{name} adds scores up and needs them to be 0 or more, not {lowest:g}: use softmax or borda, or a mean in place of the sum"
        )


def _of_log_odds(samples: Sequence[Sample], unsure: Sequence[float]) -> list[float]:
    """How much the log-odds of each answer may rise with its scores."""
    rises = []
    for sample, amount in zip(samples, unsure, strict=True):
        p = sample.score.value
        if p is None or not 0 < p < 1 or not amount:
            rises.append(0.0)
        else:
            up = min(p + amount, (1 + p) / 2)
            rises.append(math.log(up / p) + math.log1p(-p) - math.log1p(-up))
    return _summed(samples, rises)


def _of_exponentials(values: Values, unsure: Sequence[float], temperature: float) -> list[float]:
    """How much a sum of exp(score / temperature) may change with its scores; no more than itself."""
    share = math.expm1(min(max(unsure, default=0.0) / temperature, math.log(2)))
    return [abs(value or 0.0) * share for value in values]


def log_odds(name: str, probability: float) -> float:
    """Raises `ConfigError` for what is no probability between 0 and 1."""
    if not 0 < probability < 1:
        raise ConfigError(
            f"{name} needs scores that are probabilities between 0 and 1, not {probability:g}: use a verifier that gives them (p-true, "
            "or a reward model trained on outcomes)"
        )
    return math.log(probability) - math.log1p(-probability)


@dataclass(frozen=True)
class Best:
    """The best scored sample: best-of-N (Cobbe et al. 2021, arXiv 2110.14168)."""

    needs_scores: ClassVar[bool] = True

    def __call__(self, samples: Sequence[Sample]) -> Values:
        return [s.score.value if s.answer is not None else None for s in samples]

    def noise(self, samples: Sequence[Sample], values: Values, unsure: list[float]) -> list[float]:
        return [amount / 2 for amount in unsure]  # as two scores tie


@dataclass(frozen=True)
class Majority:
    """The most frequent answer: self-consistency (Wang et al. 2022, arXiv 2203.11171). Values are shares of all samples."""

    needs_scores: ClassVar[bool] = False

    def __call__(self, samples: Sequence[Sample]) -> Values:
        counts = Counter(sample.answer for sample in samples)
        return [counts[s.answer] / len(samples) if s.answer is not None else None for s in samples]


@dataclass(frozen=True)
class Weighted:
    """The answer of most score in sum, or on average (Li et al. 2023, arXiv 2206.02336)."""

    needs_scores: ClassVar[bool] = True
    aggregate: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, samples: Sequence[Sample]) -> Values:
        groups = _groups(samples, best_first(samples))
        if self.aggregate == "sum":
            _check_sums("weighted", (value for values in groups.values() for value in values))
        counts = {a: len(values) if self.aggregate == "mean" else 1 for a, values in groups.items()}
        return _of_groups(samples, {a: math.fsum(values) / counts[a] for a, values in groups.items()})


@dataclass(frozen=True)
class Filtered:
    """A weighted vote among the best scored share ``keep`` of the samples (DeepConf, Fu et al. 2025, arXiv 2508.15260)."""

    needs_scores: ClassVar[bool] = True
    keep: float = 0.5

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.keep <= 1:
            raise ConfigError(f"filtered: keep must be above 0 and at most 1, not {self.keep:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        _check_sums("filtered", (samples[at].value for at in order))
        kept = order[: max(1, math.ceil(self.keep * len(order) - 1e-9))]
        return by_answer(samples, {at: samples[at].value for at in kept})


@dataclass(frozen=True)
class Borda:
    """A vote weighted by rank: the r-th best of N has (N - r + 1) ** ``power`` votes (Kang et al. 2025, arXiv 2502.18581).

    Power 0 is the majority, a large one best-of-N. Only the order of the scores counts.
    """

    needs_scores: ClassVar[bool] = True
    power: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.power <= 100:
            raise ConfigError(f"borda: power must be from 0 to 100, not {self.power:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        return by_answer(samples, {at: (1 - place / len(order)) ** self.power for place, at in enumerate(order)})


@dataclass(frozen=True)
class Softmax:
    """A vote weighted by exp(score / ``temperature``) (CISC, Taubenfeld et al. 2025, arXiv 2502.06233).

    A high temperature is the majority, a low one best-of-N.
    """

    needs_scores: ClassVar[bool] = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.temperature >= COLDEST:
            raise ConfigError(f"softmax: temperature must be at least {COLDEST:g}, not {self.temperature:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        highest = max((samples[at].value for at in order), default=0.0)
        return by_answer(samples, {at: math.exp((samples[at].value - highest) / self.temperature) for at in order})

    def noise(self, samples: Sequence[Sample], values: Values, unsure: list[float]) -> list[float]:
        return _of_exponentials(values, unsure, self.temperature)


@dataclass(frozen=True)
class LogOdds:
    """A vote weighted by log-odds over those of ``threshold``: below it a sample votes against its answer (Kuang et al. 2025, arXiv 2510.13918)."""

    needs_scores: ClassVar[bool] = True
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.threshold < 1:
            raise ConfigError(f"log-odds: threshold must be between 0 and 1, not {self.threshold:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        bar = log_odds("log-odds", self.threshold)
        return by_answer(samples, {at: log_odds("log-odds", samples[at].value) - bar for at in best_first(samples)})

    def noise(self, samples: Sequence[Sample], values: Values, unsure: list[float]) -> list[float]:
        return _of_log_odds(samples, unsure)


@dataclass(frozen=True)
class BestOfMajority:
    """Of the answers that at least a share ``at_least`` of the samples give, the best scored (arXiv 2510.03199).

    Where no answer is so frequent all may be chosen.
    """

    needs_scores: ClassVar[bool] = True
    at_least: float = 0.25
    aggregate: Literal["mean", "sum", "max"] = "mean"

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.at_least <= 1:
            raise ConfigError(f"best-of-majority: at_least must be from 0 to 1, not {self.at_least:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        groups = _groups(samples, order)
        frequent = [a for a, values in groups.items() if len(values) / len(order) >= self.at_least] or list(groups)
        if self.aggregate == "sum":
            _check_sums("best-of-majority", (value for answer in frequent for value in groups[answer]))
        return _of_groups(samples, {answer: self._pooled(groups[answer]) for answer in frequent})

    def _pooled(self, values: Sequence[float]) -> float:
        total = math.fsum(values)
        return max(values) if self.aggregate == "max" else total / len(values) if self.aggregate == "mean" else total


@dataclass(frozen=True)
class MajorityOfTheBests:
    """The answer that most often wins best-of-``m`` among m samples drawn with replacement (arXiv 2511.18630).

    A lone favourite of the verifier's no longer wins. 0 is the root of the number of samples.
    """

    needs_scores: ClassVar[bool] = True
    m: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.m < 0:
            raise ConfigError(
                f"majority-of-the-bests: m must be 0 (the root of the number of samples) or more, not {self.m}"
            )

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        n = len(order)
        m = min(self.m or max(1, math.isqrt(n)), n)
        wins = {at: ((n - place) ** m - (n - place - 1) ** m) / n**m for place, at in enumerate(order)}
        return by_answer(samples, wins)


@dataclass(frozen=True)
class Pessimistic:
    """The answer of the best mean score, less ``alpha`` ln N / (times given + 1): few samples are held against an answer (``verification/metrics.py:pess_at_n`` of wang-research-lab/verification)."""

    needs_scores: ClassVar[bool] = True
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.alpha >= 0:
            raise ConfigError(f"pessimistic: alpha must be 0 or more, not {self.alpha:g}")

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        penalty = self.alpha * math.log(max(1, len(order)))
        groups = _groups(samples, order).items()
        return _of_groups(samples, {a: math.fsum(v) / len(v) - penalty / (len(v) + 1) for a, v in groups})


@dataclass(frozen=True)
class Bayes:
    """The answer of the highest posterior, scores being chances that a sample is right (CGES, arXiv 2511.02603).

    A wrong sample gives any of the other answers that were given, or one that was not, with equal chance. Values are log-odds
    against its being another one.
    """

    needs_scores: ClassVar[bool] = True

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        answers = len({samples[at].answer for at in order})
        weights = {at: log_odds("bayes", samples[at].value) + math.log(max(1, answers)) for at in order}
        return by_answer(samples, weights)

    def noise(self, samples: Sequence[Sample], values: Values, unsure: list[float]) -> list[float]:
        return _of_log_odds(samples, unsure)


def same_words(one: str, other: str) -> float:
    """F1 of the words that two texts share, as SQuAD counts them."""
    ours, theirs = Counter(one.lower().split()), Counter(other.lower().split())
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


@dataclass(frozen=True)
class MinimumBayesRisk:
    """The answer that is most like the others: the highest mean similarity to all samples, each weighted by exp(score / ``temperature``).

    Bertsch et al. 2023 (arXiv 2310.01387); with weights OP-MBRD (arXiv 2505.17242). Where answers are the same or not this is the
    majority, or the softmax vote.

    Attributes:
        similarity: ``answer`` (1 for the same answer, else 0), ``words`` (F1 of the words), or a function of two texts.
        temperature: 0 is no weights, and no scores are needed.
    """

    similarity: Literal["answer", "words"] | Callable[[str, str], float] = "words"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.temperature and not self.temperature >= COLDEST:
            raise ConfigError(
                f"minimum-bayes-risk: temperature must be 0 (no weights) or at least {COLDEST:g}, not {self.temperature:g}"
            )

    @property
    def needs_scores(self) -> bool:
        return self.temperature > 0

    def __call__(self, samples: Sequence[Sample]) -> Values:
        voting = (
            best_first(samples) if self.needs_scores else [at for at, s in enumerate(samples) if s.answer is not None]
        )
        highest = max((samples[at].value for at in voting), default=0.0) if self.needs_scores else 0.0
        weights = [
            math.exp((samples[at].value - highest) / self.temperature) if self.needs_scores else 1.0 for at in voting
        ]
        total = math.fsum(weights)

        def value(sample: Sample) -> float | None:
            if sample.answer is None or not voting:
                return None
            alike = (weight * self._alike(sample, samples[at]) for at, weight in zip(voting, weights, strict=True))
            return math.fsum(alike) / total

        return [value(sample) for sample in samples]

    def noise(self, samples: Sequence[Sample], values: Values, unsure: list[float]) -> list[float]:
        return _of_exponentials(values, unsure, self.temperature)

    def _alike(self, one: Sample, other: Sample) -> float:
        if self.similarity == "answer":
            return float(one.answer == other.answer)
        similarity = same_words if isinstance(self.similarity, str) else self.similarity
        return similarity(one.text, other.text)
