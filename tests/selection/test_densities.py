from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scorio.aggregate.calibration import fit_kde_vote_calibration, kde_weighted_vote

from structdecode.core.calibration import FORMAT, AnswerScores
from structdecode.core.errors import ConfigError
from structdecode.core.settings import build, selectors_by_name
from structdecode.core.types import Score
from structdecode.selection.densities import Densities, KdeCalibrated
from structdecode.selection.selectors import Sample, choose


def written(place: Path, answers: AnswerScores | None) -> str:
    file = place / "fit.json"
    content = {
        "format": FORMAT, "verifier": {"name": "p-true", "settings": {}}, "method": "platt", "maps": {"*": {"slope": 1.0}},
        "scores": {}, "measured": {}, "fitted_on": {}, "answers": None if answers is None else asdict(answers),
    }  # fmt: skip
    file.write_text(json.dumps(content))
    return str(file)


def scores(rng: np.random.Generator, n: int = 200) -> AnswerScores:
    right, wrong = rng.beta(4, 2, size=n), rng.beta(2, 3, size=n // 2)
    return AnswerScores(tuple(np.sort(right).tolist()), tuple(np.sort(wrong).tolist()))


def test_votes_are_scorios(tmp_path: Path) -> None:
    rng, agreed = np.random.default_rng(0), 0
    known = scores(rng)
    theirs = fit_kde_vote_calibration([*known.right, *known.wrong], [1] * len(known.right) + [0] * len(known.wrong))
    ours = KdeCalibrated(written(tmp_path, known))
    for _ in range(2000):
        n = int(rng.integers(2, 12))
        answers = rng.choice(list("abcd"), size=n).tolist()
        values = rng.uniform(0.02, 0.98, size=n).tolist()
        pool = [Sample(a, Score(v, resolution=0.0)) for a, v in zip(answers, values, strict=True)]
        if len(set(answers)) < 2:
            continue
        at = choose(ours, pool)
        assert at is not None and answers[at] == kde_weighted_vote(answers, values, theirs)
        agreed += 1
    assert agreed > 1800
    density = Densities(known)
    assert [density.ratio(v) for v in (0.1, 0.5, 0.9)] == pytest.approx(theirs.log_density_ratio([0.1, 0.5, 0.9]))
    assert density.share([0.3, 0.8]) == pytest.approx(float(np.mean(theirs.calibrated_probability([0.3, 0.8]))))


def test_scores_of_wrong_answers_speak_against_one(tmp_path: Path) -> None:
    ours = KdeCalibrated(written(tmp_path, scores(np.random.default_rng(1))))
    pool = [
        Sample("a", Score(0.05)),
        Sample("a", Score(0.06)),
        Sample("b", Score(0.9)),
        Sample(None, Score(0.99)),
        Sample("c"),
    ]
    values = ours(pool)
    assert Counter(value is None for value in values) == {False: 3, True: 2}
    assert values[2] > 0 > values[0] == values[1]  # type: ignore[operator]
    assert choose(ours, pool) == 2 and ours([Sample("a")]) == [None]


def test_it_is_made_by_name_and_mistakes_are_said(tmp_path: Path) -> None:
    fit = written(tmp_path, scores(np.random.default_rng(2)))
    made: Any = build("selectors", "kde-calibrated", {"fit": fit})
    assert made == KdeCalibrated(fit) and made.digest and made.needs_scores
    with pytest.raises(ConfigError, match="No such file"):
        KdeCalibrated(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="holds no scores of right and of wrong answers"):
        KdeCalibrated(written(tmp_path, None))
    with pytest.raises(ConfigError, match="probabilities between 0 and 1, not -3"):
        KdeCalibrated(written(tmp_path, AnswerScores((-3.0, 0.5), (0.1, 0.2))))
    with pytest.raises(ConfigError, match="two different scores"):
        KdeCalibrated(written(tmp_path, AnswerScores((0.5, 0.5), (0.1, 0.2))))


def test_by_default_all_are_asked_that_need_no_setting() -> None:
    assert "kde-calibrated" not in selectors_by_name() and {"best", "majority", "borda"} <= set(selectors_by_name())
    for name in selectors_by_name():
        build("selectors", name)
