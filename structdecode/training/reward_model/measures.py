"""How good values are on rows that were not trained on: loss, accuracy and AUC by stage, and what choosing by them gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structdecode.core.errors import MissingExtraError

RESAMPLES = 200


@dataclass(frozen=True)
class Scored:
    """Values at the ends of stages. All of one length.

    Attributes:
        logits: [M]. labels: [M] 0 or 1. kinds: [M] of the steps. questions: [M]. rows: [M] which answer.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.float64]
    kinds: NDArray[np.int64]
    questions: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of_batches(
        cls, logits: NDArray[np.float32], labels: NDArray[np.float32], kinds: NDArray[np.int64],
        rows: NDArray[np.int64], questions: NDArray[np.int64],
    ) -> Scored:  # fmt: skip
        """From what an evaluation gathered: the first three [N, L], ``rows`` [N], ``questions`` by row.

        A row that came twice counts once.
        """
        _, first = np.unique(rows, return_index=True)
        logits, labels, kinds, rows = logits[first], labels[first], kinds[first], rows[first]
        at, place = np.nonzero((kinds >= 0) & (labels >= 0))
        return cls(
            logits[at, place].astype(np.float64), labels[at, place].astype(np.float64), kinds[at, place],
            questions[rows[at]], rows[at],
        )  # fmt: skip

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Scored:
        return Scored(*(getattr(self, name)[chosen] for name in ("logits", "labels", "kinds", "questions", "rows")))


Measure = Callable[[Scored], float]


def good(scored: Scored) -> float:
    """The share of good labels."""
    return float(scored.labels.mean())


def loss(scored: Scored) -> float:
    """Mean binary cross-entropy, in nats."""
    signed = np.where(scored.labels > 0.5, scored.logits, -scored.logits)
    return float(np.logaddexp(0.0, -signed).mean())


def accuracy(scored: Scored) -> float:
    return float(((scored.logits > 0) == (scored.labels > 0.5)).mean())


def auc(scored: Scored) -> float:
    """Area under the ROC curve; NaN where all labels are the same."""
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    right = scored.labels > 0.5
    return float(roc_auc_score(right, scored.logits)) if right.any() and not right.all() else float("nan")


def chosen_right(scored: Scored) -> float:
    """Of each question the answer with the highest last value: the share whose last label is good."""
    return float(np.mean(list(_choices(scored).values())))


def _choices(scored: Scored) -> dict[int, bool]:
    """By question. A row's last stage is the last of its entries."""
    last = scored.only(np.r_[scored.rows[1:] != scored.rows[:-1], True])
    order = np.lexsort((-last.rows, last.logits))  # of equal values the first row wins
    return {int(last.questions[i]): bool(last.labels[i] > 0.5) for i in order}


def measured(scored: Scored, stages: Sequence[str]) -> dict[str, float]:
    """Figures by name, for a log: ``auc_caption`` and so on, over stages alone; ``chosen_right``."""
    ends = scored.only(scored.kinds < len(stages))
    figures = {}
    for kind, name in enumerate(stages):
        part = ends.only(ends.kinds == kind)
        if len(part.labels):
            for measure in (loss, accuracy, auc):
                figures[f"{measure.__name__}_{name.lower()}"] = measure(part)
    return {**figures, "chosen_right": chosen_right(ends)}


def with_errors(scored: Scored, stages: Sequence[str], seed: int = 0) -> dict[str, Mapping[str, tuple[float, float]]]:
    """(value, standard error) by stage and measure, from a bootstrap over questions.

    ``chosen`` has ``chosen_right`` beside what chance and the best possible choice give.
    """
    ends = scored.only(scored.kinds < len(stages))
    table: dict[str, Mapping[str, tuple[float, float]]] = {}
    for kind, name in enumerate(stages):
        part = ends.only(ends.kinds == kind)
        if not len(part.labels):
            continue
        table[name] = {
            "good": bootstrapped(good, part, seed), "loss": bootstrapped(loss, part, seed),
            "accuracy": bootstrapped(accuracy, part, seed), "auc": bootstrapped(auc, part, seed),
        }  # fmt: skip
    last = ends.only(np.r_[ends.rows[1:] != ends.rows[:-1], True])
    chosen = _choices(ends)
    numbers = np.unique(last.questions)
    by_question = [last.labels[last.questions == number] for number in numbers]
    table["chosen"] = {
        "chosen_right": _mean_error([float(chosen[int(number)]) for number in numbers]),
        "chance": _mean_error([float(labels.mean()) for labels in by_question]),
        "best possible": _mean_error([float(labels.max()) for labels in by_question]),
    }
    return table


def _mean_error(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def bootstrapped(measure: Measure, scored: Scored, seed: int) -> tuple[float, float]:
    """A measure and its standard error, whole questions drawn again and again: their answers are not independent."""
    rng = np.random.default_rng(seed)
    order = np.argsort(scored.questions, kind="stable")
    groups = np.split(order, np.nonzero(np.diff(scored.questions[order]))[0] + 1)
    drawn = [
        measure(scored.only(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])))
        for _ in range(RESAMPLES)
    ]
    return measure(scored), float(np.nanstd(drawn, ddof=1)) if np.isfinite(drawn).any() else float("nan")
