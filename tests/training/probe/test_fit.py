"""The fit and the folds of a probe, held against what others compute."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from structdecode.core.errors import ConfigError, DataError
from structdecode.training.probe import fit
from structdecode.training.probe.states import StageStates


def made(answers: int = 120, stages: int = 3, width: int = 5) -> tuple[StageStates, NDArray[np.bool_]]:
    """The last stage alone says what is right; some answers lack the first."""
    rng = np.random.default_rng(1)
    states = rng.normal(size=(answers, stages, width)) * [0.5, 1, 0.1, 3, 1] + 2
    states[..., 0] += np.arange(stages)
    right = states[:, -1, 1] + rng.normal(size=answers) / 2 > 2
    present = np.ones((answers, stages), dtype=bool)
    present[::7, 0] = stages == 1
    states[~present] = 0
    return StageStates(states.astype(np.float32), present), right


@pytest.mark.parametrize("weight_decay", [0.01, 1.0])
def test_of_one_stage_it_is_logistic_regression(weight_decay: float) -> None:
    """A mean of one value is that value, whatever its gate."""
    data, right = made(stages=1)
    probe, _ = fit.fit(data, right, weight_decay)
    x = data.states[:, 0].astype(np.float64)
    scaled = (x - x.mean(0)) / x.std(0)
    known = LogisticRegression(C=1 / (weight_decay * len(right)), tol=1e-10, max_iter=10_000).fit(scaled, right)
    assert fit.log_odds_of(probe, data) == pytest.approx(known.decision_function(scaled), abs=1e-4)


def test_gates_open_where_something_is_to_be_known() -> None:
    data, right = made(400)
    probe, steps = fit.fit(data, right, 1e-3)
    gates = 1 / (1 + np.exp(-(data.states @ probe.weight[0] + probe.bias[0])))
    opened = (gates * data.present).sum(0) / data.present.sum(0)
    assert opened[2] > 2 * max(opened[0], opened[1]) and 1 < steps <= fit.STEPS
    found = fit.log_odds_of(probe, data)
    share = right.mean()
    assert fit.log_loss(found, right).mean() < 0.7 * log_loss(right, [share] * len(right))
    assert (1 / (1 + np.exp(-found))).mean() == pytest.approx(share, abs=1e-5), "of stages that are there"
    again, _ = fit.fit(data, right, 1e-3)
    assert (again.weight == probe.weight).all() and (again.bias == probe.bias).all()
    assert fit.fit(data, right, 1e-3, steps=3)[1] == 3


def test_what_does_not_vary_has_no_weight() -> None:
    data, right = made()
    data.states[data.present, 4] = 7.0
    probe, _ = fit.fit(data, right, 0.01)
    assert np.isfinite(probe.weight).all() and (probe.weight[:, 4] == 0).all()


LINKS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=40)


@given(LINKS)
def test_groups_share_no_link_and_are_no_larger_than_that_asks_for(links: list[list[int]]) -> None:
    groups = fit.grouped(links)
    joined: list[set[int]] = []
    for each in map(set, links):
        touching = [group for group in joined if group & each]
        joined = [group for group in joined if not group & each] + [each.union(*touching)]
    of = [next(number for number, group in enumerate(joined) if set(each) <= group) for each in links]
    for (a, one), (b, other) in itertools.combinations(zip(groups.tolist(), of, strict=True), 2):
        assert (a == b) == (one == other)


@given(LINKS, st.integers(2, 5), st.integers(0, 3))
def test_no_fold_shares_a_link_with_the_others(links: list[list[int]], count: int, seed: int) -> None:
    groups = fit.grouped(links)
    right = np.arange(len(links)) % 2 == 0
    try:
        found = list(fit.folds(groups, right, count, seed))
    except ConfigError:
        assert len(set(groups.tolist())) < count
        return
    except DataError:
        return
    assert (np.sum(found, axis=0) == 1).all(), "each answer is held out once"
    for out in found:
        inside = {link for each, held in zip(links, out, strict=True) if held for link in each}
        outside = {link for each, held in zip(links, out, strict=True) if not held for link in each}
        assert inside and outside and not inside & outside
    again = list(fit.folds(groups, right, count, seed))
    assert all((one == other).all() for one, other in zip(found, again, strict=True))


def test_labels_without_which_nothing_can_be_learnt() -> None:
    with pytest.raises(ConfigError, match="folds is 5, but there are 3 questions that share no picture: lower it"):
        list(fit.folds(np.array([0, 1, 2]), np.array([True, False, True]), 5, 0))
    with pytest.raises(DataError, match="without a fold all labels are the same"):
        list(fit.folds(np.array([0, 1, 2]), np.array([True, True, False]), 3, 0))


def out_of_fold(**more: Any) -> fit.OutOfFold:
    rng = np.random.default_rng(0)
    questions = np.repeat(np.arange(30), 4)
    log_odds = np.round(rng.normal(size=120), 1)  # with ties
    given = {"right": rng.random(120) < 0.5, "questions": questions, "groups": questions // 2, **more}
    return fit.OutOfFold(log_odds, np.zeros(120), **given)


def test_figures_are_those_of_pairs_and_of_scikit_learn() -> None:
    found = out_of_fold()
    figures, chance = found.figures(), 1 / (1 + np.exp(-found.log_odds))
    assert figures["brier"]["probe"][0] == pytest.approx(brier_score_loss(found.right, chance))
    assert figures["log_loss"]["probe"][0] == pytest.approx(log_loss(found.right, chance))
    assert figures["log_loss"]["constant"] == pytest.approx((np.log(2), 0.0))
    pairs = [
        (found.log_odds[a] > found.log_odds[b]) + 0.5 * (found.log_odds[a] == found.log_odds[b])
        for a, b in itertools.product(range(120), repeat=2)
        if found.questions[a] == found.questions[b] and found.right[a] and not found.right[b]
    ]
    assert figures["auc_within"]["probe"][0] == pytest.approx(np.mean(pairs))


def test_standard_errors_are_those_of_a_bootstrap_over_groups() -> None:
    found, rng = out_of_fold(), np.random.default_rng(5)
    wins, pairs = fit.within(found.log_odds, found.right, found.questions)
    losses = fit.log_loss(found.log_odds, found.right)
    by_group = np.array(
        [[values[found.groups == g].sum() for values in (wins, pairs, losses, np.ones(120))] for g in range(15)]
    )
    drawn = by_group[rng.integers(15, size=(4000, 15))].sum(1)
    figures = found.figures()
    assert figures["auc_within"]["probe"][1] == pytest.approx((drawn[:, 0] / drawn[:, 1]).std(), rel=0.1)
    assert figures["log_loss"]["probe"][1] == pytest.approx((drawn[:, 2] / drawn[:, 3]).std(), rel=0.1)


def test_a_question_with_one_label_says_nothing_about_order() -> None:
    found = out_of_fold(right=np.repeat(np.arange(30) % 2 == 0, 4))
    assert "| AUC within a question | no question has both labels |" in fit.table(found.figures())


def test_each_answer_is_judged_by_a_probe_that_did_not_see_it() -> None:
    """Of states that are noise a probe that did would know the labels."""
    rng = np.random.default_rng(2)
    data = StageStates(rng.normal(size=(60, 2, 80)).astype(np.float32), np.ones((60, 2), dtype=bool))
    right, questions = rng.random(60) < 0.5, np.arange(60) // 3
    seen, _ = fit.fit(data, right, 1e-3)
    assert ((fit.log_odds_of(seen, data) > 0) == right).all()
    found = fit.cross_validated(data, right, questions, questions, count=5, seed=0, weight_decay=1e-3)
    assert 0.3 < ((found.log_odds > 0) == right).mean() < 0.7
    assert len(np.unique(found.constant)) > 1, "the share of the others, too"
