"""A search under a name: the package's, or a file of one's own, in every place that takes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from structdecode.core.assembly import make_strategy
from structdecode.core.errors import StructdecodeError, UnknownNameError
from structdecode.core.presets import PRESETS, load_preset
from structdecode.evaluation.study import load_study
from structdecode.integrations.search import Search
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.stage_beam import StageBeam
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge

MINE = """
about: two eyes
strategy: best-of-n
verifier: {ensemble: {members: {a: log-prob, b: {rule: {pattern: "7"}}}}}
settings: {n: 3, temperature: 0.5, verifier.weights.a: 2}
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(MINE)
    return str(tmp_path / "mine.yaml")


def test_the_packages_are_strategies() -> None:
    made, verifier, strategy = make_strategy(None, None, (), "llava-o1-paper")
    assert isinstance(made, StageBeam) and (verifier, strategy) == ("self-judge", "stage-beam")
    assert (made.candidates, made.temperature) == (2, 0.6)
    judge = made.verifier
    assert (
        isinstance(judge, SelfJudge) and judge.pre_check and (judge.tournament, judge.max_tokens) == ("knockout", 2048)
    )
    assert all(load_preset(name).about for name in PRESETS)


def test_one_of_ones_own(mine: str) -> None:
    made, verifier, strategy = make_strategy(None, None, (), mine)
    assert isinstance(made, BestOfN) and (strategy, verifier) == ("best-of-n", "ensemble(a=log-prob, b=rule)")
    assert (made.n, made.temperature) == (3, 0.5) and isinstance(made.verifier, Ensemble)
    assert dict(made.verifier.weights or {}) == {"a": 2.0} and made.verifier.members["b"] == Rule("7")
    assert Search.from_arguments({"preset": mine}).strategy == made


def test_what_is_given_beside_it_counts_more(mine: str) -> None:
    made, verifier, _ = make_strategy(None, "log-prob", ["n=5"], str(plain(mine)))
    assert (made.n, made.temperature, verifier) == (5, 0.5, "log-prob")
    assert Search.from_arguments({"preset": mine, "n": 7}).strategy.n == 7  # type: ignore[attr-defined]


def plain(mine: str) -> Path:
    """The same without settings of its own verifier."""
    path = Path(mine).with_name("plain.yaml")
    path.write_text("strategy: best-of-n\nsettings: {n: 3, temperature: 0.5}\n")
    return path


def test_in_a_study(tmp_path: Path, mine: str) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"data: x\ncells:\n- {{preset: {mine}, name: mine}}\n"
        f"- {{preset: {mine}, settings: {{n: 9}}, name: wide}}\n- preset: llava-o1-paper\n"
    )
    one, wide, paper = load_study(study).cells
    assert one.strategy == make_strategy(None, None, (), mine)[0] and wide.strategy.n == 9  # type: ignore[attr-defined]
    assert (one.name, wide.name, paper.name) == ("mine", "wide", "stage-beam/self-judge")
    assert paper.strategy == make_strategy(None, None, (), "llava-o1-paper")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategy: 3", "mine.yaml: strategy is 3: str is wanted"),
        ("verifier: log-prob", "mine.yaml: strategy is missing"),
        ("strategy: direct\nsetting: {}", "unknown key of a preset in .*mine.yaml 'setting'; did you mean 'settings'"),
        ("strategy: direct\nsettings: [1]", r"settings is \[1\]: a mapping is wanted"),
        ("strategy: dirct", "unknown strategy 'dirct'"),
        ("strategy: staged\nsettings: {temperature: hot}", "temperature must be"),
        ("- staged", "a preset is a mapping"),
    ],
)
def test_a_mistake_is_named(mine: str, text: str, message: str) -> None:
    Path(mine).write_text(text)
    with pytest.raises(StructdecodeError, match=message):
        make_strategy(None, None, (), mine)


def test_unknown_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown preset 'llava'"):
        load_preset("llava")
    with pytest.raises(StructdecodeError, match=r"none\.yaml: No such file"):
        load_preset("none.yaml")
    with pytest.raises(UnknownNameError, match="unknown preset"):
        Search.from_arguments({"preset": "llava"})
