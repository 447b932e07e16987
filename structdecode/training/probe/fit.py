"""Fits a probe, and says how good it is on questions that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.seeds import derive
from structdecode.training.probe.states import StageStates
from structdecode.verifiers.probe import LEAST_GATE, GatedLinear

STEPS = 500
"""The most that L-BFGS takes where the recipe says nothing."""

Floats = NDArray[np.float64]
Figure = tuple[float, float]
"""A value and its standard error."""


def fit(data: StageStates, right: NDArray[np.bool_], weight_decay: float, steps: int = 0) -> tuple[GatedLinear, int]:
    """The probe with the least mean cross-entropy plus half of ``weight_decay`` times its squared weights, and steps taken.

    Weights count as those of features of variance one. From zeros, with all answers in each step: the same data gives
    the same probe.

    Args:
        right: [N]. steps: the most; 0: as many as it takes, up to `STEPS`.
    """
    seen = data.states[data.present].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation[deviation == 0] = 1.0
    features = np.zeros(data.states.shape)
    features[data.present] = (seen - mean) / deviation
    x, present, y = torch.from_numpy(features), torch.from_numpy(data.present), torch.from_numpy(right.astype(float))
    weight = torch.zeros(2, x.shape[-1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    most = steps or STEPS
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=most, max_eval=25 * most, tolerance_grad=1e-7, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        gates, values = (x @ weight.T + bias).unbind(-1)  # [N, S]
        opened = torch.sigmoid(gates) * present
        log_odds = (opened * values).sum(1) / opened.sum(1).clamp(min=LEAST_GATE)
        found = torch.nn.functional.binary_cross_entropy_with_logits(log_odds, y)
        found = found + weight_decay / 2 * weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    taken = int(optimizer.state[weight]["n_iter"])
    scaled = weight.detach().numpy() / deviation
    return GatedLinear(scaled, bias.detach().numpy() - scaled @ mean), taken


def log_odds_of(probe: GatedLinear, data: StageStates) -> Floats:
    """[N]"""
    return np.array(
        [probe.contributions(states[present]).sum() for states, present in zip(data.states, data.present, strict=True)]
    )


# ------------------------------------------------------------------ what was not fitted on


def grouped(links: Sequence[Sequence[Hashable]]) -> NDArray[np.int64]:
    """A number for each answer: the same for two that share a link, and for those that others join."""
    parent: dict[Hashable, Hashable] = {}

    def root(link: Hashable) -> Hashable:
        while parent.setdefault(link, link) != link:
            parent[link] = link = parent[parent[link]]
        return link

    for first, *others in links:
        for other in others:
            parent[root(other)] = root(first)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(root(each[0]), len(numbers)) for each in links])


def folds(groups: NDArray[np.int64], right: NDArray[np.bool_], count: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Of each fold which answers are held out, [N]: all of a group or none.

    Raises:
        ConfigError: there are fewer groups than folds. DataError: without a fold's answers all labels are the same.
    """
    known, of = np.unique(groups, return_inverse=True)
    if len(known) < count:
        raise ConfigError(f"folds is {count}, but there are {len(known)} questions that share no picture: lower it")
    fold_of = np.random.default_rng(derive(seed, "folds")).permutation(len(known)) % count
    for fold in range(count):
        out: NDArray[np.bool_] = fold_of[of] == fold
        if right[~out].all() or not right[~out].any():
            raise DataError(
                "a probe needs right and wrong answers to more questions: without a fold all labels are the same"
            )
        yield out


@dataclass(frozen=True)
class OutOfFold:
    """Log-odds of answers by probes that were fitted without their group, all [N].

    Attributes:
        constant: log-odds of the share of right answers among those that the probe was fitted on.
    """

    log_odds: Floats
    constant: Floats
    right: NDArray[np.bool_]
    questions: NDArray[np.int64]
    groups: NDArray[np.int64]

    def figures(self) -> dict[str, dict[str, Figure]]:
        """By measure, of the ``probe`` and of the ``constant``; standard errors are over groups."""
        kinds = {"probe": self.log_odds, "constant": self.constant}
        measures: dict[str, Callable[[Floats, NDArray[np.bool_]], Floats]] = {"brier": brier, "log_loss": log_loss}
        found = {
            name: {kind: self._mean(measure(each, self.right), np.ones(len(each))) for kind, each in kinds.items()}
            for name, measure in measures.items()
        }
        wins, pairs = within(self.log_odds, self.right, self.questions)
        return {"auc_within": {"probe": self._mean(wins, pairs), "constant": (0.5, 0.0)}, **found}

    def _mean(self, values: Floats, weights: Floats) -> Figure:
        """sum(values) / sum(weights), and its standard error to first order, groups being independent."""
        total = weights.sum()
        if not total:
            return float("nan"), float("nan")
        mean = values.sum() / total
        left = np.bincount(self.groups, values - mean * weights)[np.bincount(self.groups, weights) > 0]
        n = len(left)
        return float(mean), float(np.sqrt(n / (n - 1) * np.square(left).sum()) / total) if n > 1 else float("nan")


def cross_validated(
    data: StageStates, right: NDArray[np.bool_], questions: NDArray[np.int64], groups: NDArray[np.int64],
    *, count: int, seed: int, weight_decay: float, steps: int = 0,
) -> OutOfFold:  # fmt: skip
    """Each fold's answers by a probe that was fitted on the others'.

    Raises:
        ConfigError, DataError: as `folds`.
    """
    log_odds, constant = np.zeros(len(right)), np.zeros(len(right))
    for out in folds(groups, right, count, seed):
        share = right[~out].mean()
        probe, _ = fit(chosen(data, ~out), right[~out], weight_decay, steps)
        log_odds[out] = log_odds_of(probe, chosen(data, out))
        constant[out] = np.log(share / (1 - share))
    return OutOfFold(log_odds, constant, right, questions, groups)


def chosen(data: StageStates, rows: NDArray[np.bool_]) -> StageStates:
    return StageStates(data.states[rows], data.present[rows])


def brier(log_odds: Floats, right: NDArray[np.bool_]) -> Floats:
    """[N], squared differences of probability and outcome."""
    found: Floats = np.square(1 / (1 + np.exp(-log_odds)) - right)
    return found


def log_loss(log_odds: Floats, right: NDArray[np.bool_]) -> Floats:
    """[N], in nats."""
    found: Floats = np.logaddexp(0.0, np.where(right, -log_odds, log_odds))
    return found


def within(log_odds: Floats, right: NDArray[np.bool_], questions: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Of each answer that is right how many wrong ones of its question are below it (ties as half), and how many there are.

    The sums' ratio is the AUC within a question.
    """
    wins, pairs = np.zeros(len(right)), np.zeros(len(right))
    for at in np.flatnonzero(right):
        wrong = log_odds[(questions == questions[at]) & ~right]
        wins[at], pairs[at] = (wrong < log_odds[at]).sum() + (wrong == log_odds[at]).sum() / 2, len(wrong)
    return wins, pairs


def table(figures: Mapping[str, Mapping[str, Figure]]) -> str:
    """Figures out of fold, as Markdown."""
    names = {"auc_within": "AUC within a question", "brier": "Brier score", "log_loss": "log-loss, nats"}
    rows = [[name, *(_number(figures[key][kind]) for kind in ("probe", "constant"))] for key, name in names.items()]
    header = ["out of fold", "probe", "share of right answers alone"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * 3, *rows))


def _number(figure: Figure) -> str:
    value, error = figure
    return "no question has both labels" if value != value else f"{value:.3f} ± {error:.3f}"
