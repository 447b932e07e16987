"""From a run's scores to a `Calibration`: fitted by scikit-learn, measured by cross-validation over groups of questions.

Groups are the clusters of the data: a question with all its candidates, seeds and the questions about the same picture is
held out as a whole. Candidates of a search tree count by the share of the finished answers below them that are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdecode.core.calibration import (
    ANY_STAGE,
    AnswerScores,
    Calibration,
    Measured,
    Method,
    ProbabilityMap,
    Quality,
    Spread,
    VerifierIdentity,
)
from structdecode.core.environment import versions
from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.plain import digest_of
from structdecode.evaluation import statistics
from structdecode.evaluation.labelled import LabelledCandidate, LabelledScores, labelled_scores
from structdecode.evaluation.report.results import Results

FOLDS = 5
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99)
BINS = 10
MOST_ANSWERS = 2000
"""Scores of right (or of wrong) answers that a file keeps."""
_LEAST = 1e-6
"""Probabilities are taken to be this far from 0 and 1 where their logarithm is wanted."""


@dataclass(frozen=True)
class Labels:
    """Scores with what became of them.

    Attributes:
        scores: [n]. right: [n], from 0 to 1. groups: [n], cluster of each.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.float64]
    groups: tuple[str, ...]
    questions: int

    @classmethod
    def of(cls, candidates: Sequence[LabelledCandidate]) -> Labels:
        """Of candidates that have a score and a finished answer below them."""
        known = [c for c in candidates if c.score is not None and c.right is not None]
        return cls(
            np.array([c.score for c in known], dtype=float), np.array([c.right for c in known], dtype=float),
            tuple(c.cluster for c in known), len({c.question for c in known}),
        )  # fmt: skip

    @property
    def known(self) -> str:
        """Why nothing can be fitted; empty where something can."""
        if not len(self.scores):
            return "no candidate has a score and an answer"
        if self.right.min() == self.right.max():
            return f"all {len(self.right)} candidates are {'right' if self.right[0] else 'wrong'}"
        if len(set(self.groups)) < 2:
            return "all questions share one picture, so none can be held out"
        return ""


def fit(
    results: Results, verifier: str, *, method: Method = "isotonic", by_stage: bool = False, cell: str | None = None
) -> Calibration:
    """Fits the scores of a run's verifier.

    Args:
        verifier: its name, or its label where it is made of others. cell: whose candidates; default: of the cells of
            that verifier the one with the most independent answers (by stage: with scores of the most stages).

    Raises:
        ConfigError: the run has no such scores, or they cannot be fitted. MissingExtraError: no scikit-learn.
    """
    _sklearn()
    source = _chosen(results, verifier, by_stage, cell)
    labels = {stage: Labels.of(found) for stage, found in _parts(source, by_stage).items()}
    failed = {stage: why for stage, found in labels.items() if (why := found.known)}
    if failed:
        stage, why = next(iter(failed.items()))
        where = "" if stage == ANY_STAGE else f", stage {stage}"
        raise ConfigError(f"{source.cell.name}{where}: nothing to fit: {why}")
    return Calibration(
        VerifierIdentity(source.verifier, source.settings), method,
        {stage: fitted(found.scores, found.right, method) for stage, found in labels.items()},
        {stage: spread(scores) for stage, found in source.by_stage.items() if (scores := _scores(found))},
        {stage: measured(found, method) for stage, found in labels.items()},
        _identity(results, source), _answers(source.finished),
    )  # fmt: skip


def _answers(finished: Sequence[LabelledCandidate]) -> AnswerScores | None:
    """None where right or wrong ones are missing."""
    labels = Labels.of(finished)
    right, wrong = labels.scores[labels.right > 0.5], labels.scores[labels.right <= 0.5]
    step = max(1, math.ceil(max(len(right), len(wrong)) / MOST_ANSWERS))
    return (
        AnswerScores(*(tuple(np.sort(part)[step // 2 :: step].tolist()) for part in (right, wrong)))
        if min(len(right), len(wrong)) > step
        else None
    )


def _chosen(results: Results, verifier: str, by_stage: bool, cell: str | None) -> LabelledScores:
    every = labelled_scores(results)
    found = [scores for scores in every if scores.named(verifier)]
    where = results.run.directory
    if not found:
        known = sorted({scores.verifier for scores in every})
        raise ConfigError(
            f"{where}: has no scores of {verifier!r}; it has those of {', '.join(known) or 'no verifier'}"
        )
    if cell is not None:
        named = [scores for scores in found if scores.cell.name == cell]
        if not named:
            known = sorted({scores.cell.name for scores in found})
            raise ConfigError(f"{where}: no cell {cell!r} with scores of {verifier!r}; there are {', '.join(known)}")
        return named[0]
    settings = {digest_of(dict(scores.settings)) for scores in found}
    if len(settings) > 1:
        cells = ", ".join(scores.cell.name for scores in found)
        raise ConfigError(f"{where}: {verifier!r} has other settings in other cells: give one of {cells} with --cell")

    def worth(scores: LabelledScores) -> tuple[int, bool, int]:
        return len(scores.by_stage) if by_stage else 0, scores.cell.independent, scores.cell.width

    return max(found, key=worth)


def _parts(source: LabelledScores, by_stage: bool) -> dict[str, list[LabelledCandidate]]:
    """Candidates by the stage that a map is for."""
    if not by_stage:
        return {ANY_STAGE: source.finished}
    found = {stage: list(candidates) for stage, candidates in source.by_stage.items()}
    if len(found) < 2:
        raise ConfigError(
            f"{source.cell.name}: has scores of {', '.join(found) or 'no stage'} alone: leave --by-stage out, or take a run of a "
            "search that scores stages (stage-beam), or of a verifier that says each stage's score"
        )
    inferred = any(c.inferred for candidates in found.values() for c in candidates)
    last = source.stages[-1]
    if inferred and any(c.details.get(last, c.score) != c.score for c in source.finished):
        raise ConfigError(
            f"{source.cell.name}: {source.verifier}'s score of an answer is not what it says of its last stage, so its scores of earlier "
            "stages are not known: leave --by-stage out, or take a run of a search that scores stages (stage-beam)"
        )
    return found


def _scores(candidates: Sequence[LabelledCandidate]) -> list[float]:
    return [c.score for c in candidates if c.score is not None]


def spread(scores: Sequence[float]) -> Spread:
    numbers = np.asarray(scores, dtype=float)
    found = np.quantile(numbers, QUANTILES)
    return Spread(
        len(numbers), float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0,
        {f"{share:g}": float(value) for share, value in zip(QUANTILES, found, strict=True)},
    )  # fmt: skip


# ------------------------------------------------------------------ maps


def fitted(scores: NDArray[np.float64], right: NDArray[np.float64], method: Method) -> ProbabilityMap:
    """The map that fits best; level, at the share of right answers, where scores do not rise with them.

    Args:
        scores: [n]. right: [n], shares from 0 to 1.
    """
    centre, scale = float(np.median(scores)), float(scores.std()) or 1.0
    if method == "platt":
        slope, intercept = _platt((scores - centre) / scale, right)
        return ProbabilityMap((), slope / scale, intercept - slope * centre / scale, centre, scale)
    regression = _sklearn().isotonic.IsotonicRegression(y_min=0.0, y_max=1.0).fit(scores, right)
    knots = zip(regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist(), strict=True)
    return ProbabilityMap(tuple(knots), centre=centre, scale=scale)


def _platt(scores: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept, with Platt's targets, which keep both finite where scores part right from wrong."""
    most, total = float(right.sum()), len(right)
    high, low = (most + 1) / (most + 2), 1 / (total - most + 2)
    targets = right * high + (1 - right) * low
    twice = np.concatenate([scores, scores])[:, None]  # each score once as right and once as wrong, by weight
    classes = np.repeat([1, 0], total)
    weights = np.concatenate([targets, 1 - targets])
    found = _sklearn().linear_model.LogisticRegression(C=np.inf, max_iter=1000).fit(twice, classes, weights)
    slope, intercept = float(found.coef_[0, 0]), float(found.intercept_[0])
    if slope > 0:
        return slope, intercept
    share = float(targets.mean())
    return 0.0, math.log(share / (1 - share))


# ------------------------------------------------------------------ how good they are


def measured(labels: Labels, method: Method) -> Measured:
    """Out-of-fold, beside the scores as they are and the share of right answers alone."""
    calibrated, base = out_of_fold(labels, method)
    probable = bool(np.all((labels.scores >= 0) & (labels.scores <= 1)))
    before = labels.scores if probable else base
    gaps = _squared(before, labels.right) - _squared(calibrated, labels.right)
    gain = statistics.mean_gap(gaps, labels.groups)
    known = gain.groups >= statistics.FEW
    return Measured(
        len(labels.scores), labels.questions, len(set(labels.groups)), float(labels.right.mean()),
        quality(labels.scores, labels.right) if probable else None, quality(base, labels.right),
        quality(calibrated, labels.right), gain.value, gain.low if known else None, gain.high if known else None,
    )  # fmt: skip


def out_of_fold(labels: Labels, method: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities [n] by maps that were fitted without the candidate's group, and the share of right ones there [n]."""
    calibrated, base = np.empty(len(labels.scores)), np.empty(len(labels.scores))
    folds = _sklearn().model_selection.GroupKFold(min(FOLDS, len(set(labels.groups))))
    for seen, held_out in folds.split(labels.scores, groups=labels.groups):
        found = fitted(labels.scores[seen], labels.right[seen], method)
        calibrated[held_out] = [found(score) for score in labels.scores[held_out].tolist()]
        base[held_out] = labels.right[seen].mean()
    return calibrated, base


def quality(probabilities: NDArray[np.float64], right: NDArray[np.float64]) -> Quality:
    """Both [n]; a candidate with a share of right answers counts as so much of a right and the rest of a wrong one."""
    safe = np.clip(probabilities, _LEAST, 1 - _LEAST)
    log_loss = -(right * np.log(safe) + (1 - right) * np.log(1 - safe)).mean()
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=probabilities - right, minlength=BINS)
    return Quality(
        float(_squared(probabilities, right).mean()), float(log_loss), float(np.abs(gaps).sum() / len(right))
    )


def _squared(probabilities: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(right * (1 - probabilities) ** 2 + (1 - right) * probabilities**2)


def _identity(results: Results, source: LabelledScores) -> dict[str, Any]:
    study = results.run.study
    config = study["config"]
    name = source.cell.records[0].cell
    code: dict[str, Any] = next((cell.get("code", {}) for cell in config["cells"] if cell["name"] == name), {})
    return {
        "run": results.run.directory.resolve().name, "cell": source.cell.name, "seeds": list(source.cell.seeds),
        "model": dict(config["model"]), "data": {key: config["data"].get(key) for key in ("name", "digest", "questions")},
        "code": {place: entry for place, entry in code.items() if place != "strategy"},
        "versions": {**versions(), "scikit-learn": _sklearn().__version__},
    }  # fmt: skip


def _sklearn() -> Any:
    try:
        import sklearn
        import sklearn.isotonic
        import sklearn.linear_model
        import sklearn.model_selection
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    return sklearn
