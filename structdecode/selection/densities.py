"""Votes weighted by how much likelier their score is of a right answer than of a wrong one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from structdecode.core.calibration import AnswerScores, Calibration
from structdecode.core.digests import file_digest
from structdecode.core.errors import ConfigError
from structdecode.core.settings import check_settings
from structdecode.selection.selectors import Sample, Values, best_first, by_answer, log_odds

BINS = 10
"""Equally full bins of scores, in each of which the share of right answers is taken."""
_SURE = 1e-12


class Densities:
    """Gaussian kernel densities of the log-odds of right and of wrong answers' scores, each with Scott's bandwidth.

    Raises:
        ConfigError: there are too few scores, they are no probabilities, or all of one kind are the same.
    """

    def __init__(self, answers: AnswerScores, bins: int = BINS) -> None:
        self._right, self._wrong = (self._log_odds(scores) for scores in (answers.right, answers.wrong))
        scores = np.array([*answers.right, *answers.wrong])
        right = np.array([1.0] * len(answers.right) + [0.0] * len(answers.wrong))
        cuts = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1), method="nearest"))
        self._edges = cuts[(cuts > scores.min()) & (cuts < scores.max())]
        place = np.searchsorted(self._edges, scores, side="right")
        self._share = np.array([right[place == at].mean() for at in range(len(self._edges) + 1)])

    @staticmethod
    def _log_odds(scores: Sequence[float]) -> NDArray[np.float64]:
        found = np.array([log_odds("kde-calibrated", score) for score in scores])
        if len(found) < 2 or not found.std():
            raise ConfigError("kde-calibrated needs two different scores or more of right and of wrong answers")
        return found

    def ratio(self, score: float) -> float:
        """How much likelier the score is of a right answer: the logarithm of the densities' ratio."""
        at = log_odds("kde-calibrated", score)
        return _log_density(self._right, at) - _log_density(self._wrong, at)

    def share(self, scores: Sequence[float]) -> float:
        """How many answers of these scores are right, by their bins."""
        return float(self._share[np.searchsorted(self._edges, np.array(scores), side="right")].mean())


def _log_density(known: NDArray[np.float64], at: float) -> float:
    width = known.std(ddof=1) * len(known) ** -0.2
    terms = -0.5 * ((at - known) / width) ** 2
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum())) - math.log(len(known) * width * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class KdeCalibrated:
    """A vote weighted by log f1(s) - log f0(s) + log q + log(m - 1) - log(1 - q) (Kuang et al. 2025, arXiv 2510.13918, section 4.1).

    f1 and f0 are the densities of scores of right and wrong answers, m is how many different answers there are, q how
    many samples of such scores are right. Scores that speak against an answer are held against it.

    Attributes:
        fit: a file that `structdecode verifier fit` wrote for this verifier, on other questions.
        digest: of the file: another fit at the same path is another selector.
    """

    needs_scores: ClassVar[bool] = True
    fit: str
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self._densities
        object.__setattr__(self, "digest", file_digest(Path(self.fit)))

    @cached_property
    def _densities(self) -> Densities:
        answers = Calibration.load(self.fit).answers
        if answers is None:
            raise ConfigError(
                f"{self.fit}: holds no scores of right and of wrong answers: fit it again on a run that has both"
            )
        return Densities(answers)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_densities"}

    def __call__(self, samples: Sequence[Sample]) -> Values:
        order = best_first(samples)
        if not order:
            return [None] * len(samples)
        answers = len({samples[at].answer for at in order})
        share = min(max(self._densities.share([samples[at].value for at in order]), _SURE), 1 - _SURE)
        offset = math.log(share) - math.log1p(-share) + math.log(max(1, answers - 1))
        return by_answer(samples, {at: self._densities.ratio(samples[at].value) + offset for at in order})
