from __future__ import annotations

import numpy as np
import pytest

from structdecode.training.reward_model.measures import Scored, accuracy, auc, chosen_right, loss, measured, with_errors

STAGES = ("CAPTION", "CONCLUSION")


def scored() -> Scored:
    """Two questions of two answers with two stages; and a sentence (kind 2), which no figure counts."""
    logits = np.array(
        [[1.0, -2.0, 3.0], [0.5, 9.0, -1.0], [2.0, 9.0, 0.0], [-1.0, 9.0, 4.0], [-1.0, 9.0, 4.0]], np.float32
    )
    labels = np.array([[1, 0, 1], [0, -100, 0], [1, -100, 1], [0, -100, 0], [0, -100, 0]], np.float32)
    kinds = np.array([[0, 2, 1], [0, -1, 1], [0, -1, 1], [0, -100, 1], [0, -100, 1]])
    rows, questions = np.array([3, 0, 2, 1, 1]), np.array([7, 8, 8, 7])  # row 1 came twice
    return Scored.of_batches(logits, labels, kinds, rows, questions)


def test_a_row_that_came_twice_counts_once() -> None:
    found = scored()
    assert found.rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert found.questions.tolist() == [7, 7, 8, 8, 8, 8, 7, 7, 7]


def test_figures_by_stage() -> None:
    figures = measured(scored(), STAGES)
    caption = np.array([0.5, -1.0, 2.0, 1.0]), np.array([0, 0, 1, 1])
    assert figures["accuracy_caption"] == 0.75
    assert figures["auc_caption"] == 1.0
    by_hand = np.mean(np.log1p(np.exp(-np.where(caption[1], caption[0], -caption[0]))))
    assert figures["loss_caption"] == pytest.approx(by_hand)
    assert figures["auc_conclusion"] == 0.5  # right ones at 0 and 3, wrong ones at -1 and 4: two pairs of four
    assert figures["chosen_right"] == 0.5  # of question 7 the right one at 3 beats -1, of 8 the wrong one at 4 beats 0


def test_errors_come_from_whole_questions() -> None:
    """Many answers of one question say little more than one: here all answers of a question agree."""
    rng = np.random.default_rng(0)
    questions = np.repeat(np.arange(20), 50)
    labels = np.repeat(rng.integers(2, size=20), 50).astype(float)
    some = Scored(rng.normal(size=1000) + labels, labels, np.ones(1000, int), questions, np.arange(1000))
    table = with_errors(some, STAGES)
    assert list(table) == ["CONCLUSION", "chosen"]
    value, error = table["CONCLUSION"]["good"]
    assert value == labels.mean() and error == pytest.approx(np.std(labels[::50]) / np.sqrt(20), rel=0.25)
    value, error = table["CONCLUSION"]["auc"]
    assert value == auc(some) and 0.005 < error < 0.05 and 0.6 < value < 0.9
    assert table["chosen"]["chosen_right"] == table["chosen"]["best possible"]
    assert chosen_right(some) == table["chosen"]["chance"][0]


def test_perfect_and_one_sided() -> None:
    ones = Scored(np.full(3, 50.0), np.ones(3), np.zeros(3, int), np.arange(3), np.arange(3))
    assert (loss(ones), accuracy(ones)) == (pytest.approx(0.0, abs=1e-12), 1.0)
    assert np.isnan(auc(ones)) and np.isnan(with_errors(ones, STAGES)["CAPTION"]["auc"][0])
