"""Scores as probabilities: the order stays, and a file that is not of this verifier is refused in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import structdecode as sd
from structdecode.core.calibration import (
    ANY_STAGE,
    Calibration,
    Measured,
    ProbabilityMap,
    Quality,
    Spread,
    VerifierIdentity,
)
from structdecode.core.errors import ConfigError
from structdecode.core.labels import label_of
from structdecode.core.plain import plain
from structdecode.core.protocols import Verifier
from structdecode.core.types import Candidate, Score
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.calibrated import Calibrated
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.log_prob import LogProb
from structdecode.verifiers.rule import Rule

LEVELS = ProbabilityMap(((0.0, 0.2), (3.0, 0.2), (4.0, 0.9), (9.0, 0.9)), centre=4.0, scale=2.0)
"""As isotonic regression gives them: most scores share a level."""
QUESTION = sd.Prompt("How many?")


@sd.verifier("length-of-caption")
def length_of_caption(c: Candidate) -> float | None:
    return None if c.stages.get("CAPTION") == "?" else len(c.stages.get("CAPTION", "")) / 2


def fitted(path: Path, verifier: Verifier, **maps: ProbabilityMap) -> Path:
    """A file as `structdecode verifier fit` writes it."""
    quality = Quality(0.1, 0.3, 0.05)
    measured = Measured(10, 5, 5, 0.5, None, quality, quality, 0.01, None, None)
    identity = VerifierIdentity(label_of(verifier), plain(verifier))
    found = maps or {ANY_STAGE: LEVELS}
    Calibration(
        identity, "isotonic", found, {"CAPTION": Spread(10, 2.0, 0.5, {"0.5": 2.0})}, dict.fromkeys(found, measured), {}
    ).save(path)
    return path


def score(verifier: Verifier, candidates: Sequence[Candidate]) -> list[Score]:
    return list(asyncio.run(verifier.score(QUESTION, candidates, EchoModel())))


def captions(*lengths: int) -> list[Candidate]:
    return [candidate("plan", "x" * length, path=(at,)) for at, length in enumerate(lengths)]


def test_probabilities_keep_the_raw_order_and_its_ties(tmp_path: Path) -> None:
    raw = sd.build("verifiers", "length-of-caption")
    verifier = Calibrated(raw, str(fitted(tmp_path / "fit.json", raw)))
    answers = captions(4, 1, 6, 4, 2, 12, 9)  # raw scores 2, 0.5, 3, 2, 1, 6, 4.5: two levels only
    found = score(verifier, answers)
    values = [one.value or 0.0 for one in found]
    assert sorted(range(7), key=values.__getitem__) == [1, 4, 0, 3, 2, 6, 5]
    assert found[0].ties(found[3]) and not any(found[a].ties(found[b]) for a, b in ((1, 4), (4, 0), (2, 6), (6, 5)))
    assert values == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9], abs=2e-3)
    assert [one.details["raw"] for one in found] == [2.0, 0.5, 3.0, 2.0, 1.0, 6.0, 4.5]
    assert not score(verifier, [candidate("plan", "?")])[0].scored
    check_verifier(verifier)


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), max_size=6, unique_by=lambda knot: knot[0]),
    st.floats(-50, 50),
    st.floats(1e-3, 10),
)
def test_a_map_rises_strictly_and_what_tied_ties(knots: list[tuple[float, float]], score: float, gap: float) -> None:
    levels = sorted(probability for _, probability in knots)
    rising = ProbabilityMap(tuple(zip(sorted(x for x, _ in knots), levels, strict=True)))
    assert 0 < rising(score) < rising(score + gap) < 1
    noise = 1e-5
    for other in (score + noise * max(1.0, abs(score)) * 0.99, score - noise * max(1.0, abs(score)) * 0.99):
        first, second = (Score(rising(x), resolution=rising.noise(x, noise)) for x in (score, other))
        assert first.ties(second)


def test_an_ensemble_may_mix_probabilities(tmp_path: Path) -> None:
    raw, rule = sd.build("verifiers", "length-of-caption"), Rule(pattern="x")
    fitted(tmp_path / "a.json", raw)
    fitted(tmp_path / "b.json", rule, **{ANY_STAGE: ProbabilityMap((), 1.0, 0.0)})
    members = {
        "a": {"calibrated": {"verifier": "length-of-caption", "fit": str(tmp_path / "a.json")}},
        "b": {"calibrated": {"verifier": {"rule": {"pattern": "x"}}, "fit": str(tmp_path / "b.json")}},
    }
    both = sd.build("verifiers", "ensemble", {"members": members, "normalise": "none"})
    assert isinstance(both, Ensemble) and label_of(both.members["a"]) == "calibrated(verifier=length-of-caption)"
    (found,) = score(both, captions(12))
    assert found.value == pytest.approx((0.9 + 0.731) / 2, abs=3e-3)


def test_each_stage_has_its_map(tmp_path: Path) -> None:
    raw = sd.build("verifiers", "length-of-caption")
    path = fitted(tmp_path / "fit.json", raw, CAPTION=LEVELS, REASONING=ProbabilityMap(((0.0, 0.5),)))
    found = score(Calibrated(raw, str(path)), [candidate("s"), candidate("s", "xx"), candidate("s", "xx", "r")])
    assert found[0].reason == "the calibration has nothing for stage 'SUMMARY'"
    assert [one.value for one in found[1:]] == pytest.approx([0.2, 0.5], abs=2e-3)
    assert Calibration.load(path).scores["CAPTION"].cut_off() == pytest.approx(2.0 + 0.2533 * 0.5)


def test_another_fit_at_the_same_path_is_another_verifier(tmp_path: Path) -> None:
    raw = LogProb()
    path = fitted(tmp_path / "fit.json", raw)
    before = Calibrated(raw, str(path))
    fitted(path, raw, **{ANY_STAGE: ProbabilityMap((), 2.0)})
    assert Calibrated(raw, str(path)) != before and plain(Calibrated(raw, str(path))) != plain(before)


def change(content: dict[str, Any], *keys: str, to: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = to


BROKEN = {
    "version": (("format",), "structdecode-calibration/9", "is of version 'structdecode-calibration/9'"),
    "something else": (("format",), "structdecode-study/1", "not a calibration"),
    "no maps": (("maps",), {}, "maps is empty"),
    "falling": (("maps", "*", "knots"), [[0, 0.5], [1, 0.4]], "maps.*: knots are not rising"),
    "no probability": (("maps", "*", "knots"), [[0, 1.5]], "a probability is not from 0 to 1"),
    "half a knot": (("maps", "*", "knots"), [[0]], "maps.*.knots[0] is"),
    "a text": (("maps", "*", "slope"), "steep", "maps.*.slope is 'steep'"),
    "a slope down": (("maps", "*", "slope"), -1.0, "a slope of 0 or more"),
    "a method": (("method",), "magic", "method is 'magic': isotonic or platt is wanted"),
    "another verifier": (("verifier", "name"), "p-true", "was fitted on scores of 'p-true', not of 'log-prob'"),
    "other settings": (("verifier", "settings", "scope"), "stage", "with scope='stage', not 'answer'"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_does_not_fit_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = fitted(tmp_path / "fit.json", LogProb())
    content = json.loads(path.read_text())
    keys, value, words = BROKEN[what]
    change(content, *keys, to=value)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as raised:
        Calibrated(LogProb(), str(path))
    said = str(raised.value)
    assert words in said and str(path) in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "words"), [("{", "damaged: not JSON"), ("[]", "not a calibration"), ('{"format": 1}', "not a calibration")]
)
def test_what_is_no_calibration(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        Calibration.load(tmp_path / "fit.json")
    with pytest.raises(ConfigError, match="No such file"):
        sd.build("verifiers", "calibrated", {"verifier": "log-prob", "fit": str(tmp_path / "none.json")})


def test_a_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = fitted(tmp_path / "fit.json", LogProb())
    found = Calibration.load(path)
    assert replace(found, fitted_on={}) == found and found.maps[ANY_STAGE] == LEVELS
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == path.read_text()
