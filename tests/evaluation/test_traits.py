"""What a strategy declares is all that sweeps and reports know of it: no plug-in's name stands in `evaluation`."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.protocols import Decoder, StrategyTraits, Verifier, traits_of
from structdecode.core.types import Candidate, Prompt, Ranked, Schema, Stage, rank
from structdecode.evaluation.cells import CellTemplate, declared, expand
from structdecode.evaluation.commands import write_report
from structdecode.evaluation.report import coverage
from structdecode.evaluation.report.results import Results
from structdecode.evaluation.study import DataSource, Study, from_options
from structdecode.matching.types import Question
from structdecode.records.store import read_run, read_study
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.direct import Direct
from structdecode.verifiers.log_prob import LogProb
from tests.evaluation.pocket_study import compare

EVALUATION = Path(__file__).parents[2] / "structdecode/evaluation"


@registry.strategy("particle-filter")
@dataclass(frozen=True)
class Particles:
    """A third party's search, with a word of its own for its width."""

    default_schema: ClassVar[str] = "llava-o1"
    traits: ClassVar[StrategyTraits] = StrategyTraits("particles", independent=True)
    particles: int = 3
    judge: Verifier = field(default_factory=LogProb)

    async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
        candidates = [decoder.root]
        for stage in schema.stages:
            width = self.particles if candidates == [decoder.root] else 1
            candidates = await decoder.extend(candidates, stage, n=width)
        return rank(candidates, await decoder.score(self.judge, candidates))


@registry.strategy("one-path")
@dataclass(frozen=True)
class OnePath(Particles):
    traits: ClassVar[StrategyTraits] = StrategyTraits(baseline=True)
    particles: int = 1
    temperature: float = 0.0


def writing(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    return f"{seed % 3}{stage.end}"


def questions() -> list[Question]:
    return [Question(f"q{at}", f"Question {at}?", ("1",)) for at in range(4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("traits") / "run"
    study = from_options(DataSource("mine.jsonl"), ["one-path", "particle-filter"], sweep=["n=1,2,4"])
    compare(study, out, ScriptedBackend(writing), questions())
    write_report(out)
    yield out


def test_a_width_of_ones_own_is_swept_and_reported_as_n(run: Path) -> None:
    cells = read_study(run)["config"]["cells"]
    assert [(c["name"], c["family"], c["width"]) for c in cells] == [
        ("one-path", "one-path", 1), ("particle-filter/n=1", "particle-filter", 1),
        ("particle-filter/n=2", "particle-filter", 2), ("particle-filter/n=4", "particle-filter", 4),
    ]  # fmt: skip
    results = Results(read_run(run))
    assert [cell.width for cell in results.families["particle-filter"]] == [1, 2, 4]
    source = coverage.independent(results)
    assert source is not None and source.name == "particle-filter/n=4"
    assert set(coverage.pass_at(source)) == {1, 2, 4}
    assert results.greedy is not None and results.greedy.name == "one-path"
    assert results.one_sample is not None and results.one_sample.name == "particle-filter/n=1"
    tables = json.loads((run / "tables.json").read_text())
    assert "pass_at" in json.dumps(tables)


def test_the_width_may_be_swept_by_its_own_name_but_not_by_both() -> None:
    one, two = expand([CellTemplate("particle-filter", sweep={"particles": [2, 5]})], [0])
    assert (one.name, one.width, two.width) == ("particle-filter/particles=2", 2, 5)
    with pytest.raises(ConfigError, match="n and particles are the same setting"):
        expand([CellTemplate("particle-filter", sweep={"particles": [2], "n": [3]})], [0])


def test_a_strategy_that_declares_no_width_is_not_swept_by_n() -> None:
    with pytest.raises(UnknownNameError, match="unknown sweep"):
        from_options(DataSource("d"), ["one-path"], sweep=["n=1,2"])


def test_what_is_declared_and_what_stands_where_nothing_is() -> None:
    @dataclass(frozen=True)
    class Silent:
        candidates: int = 2

    @dataclass(frozen=True)
    class Wrong:
        traits: ClassVar[StrategyTraits] = StrategyTraits("width")
        breadth: int = 2

    assert traits_of(Silent) == StrategyTraits("candidates")
    assert traits_of(BestOfN) == StrategyTraits("n", independent=True) and traits_of(Direct) == StrategyTraits()
    with pytest.raises(ConfigError, match=r"width 'width' is none of its settings \(breadth\)"):
        traits_of(Wrong)
    with pytest.raises(ConfigError, match="must be StrategyTraits"):
        traits_of(type("Other", (), {"traits": "n"}))


def test_cells_of_earlier_versions_ask_the_strategy() -> None:
    old = {"strategy": "stage-beam", "resolved": {"candidates": 8}}
    assert declared(old) == (8, False, False)
    assert declared({"strategy": "staged", "resolved": {}}) == (1, False, True)
    assert declared({"strategy": "not-installed-any-more"}) == (1, False, False)


def test_no_name_of_a_plug_in_stands_in_evaluation() -> None:
    """Nor in code that is not ours: text in docstrings and messages may give examples."""
    groups = ("structdecode.strategies", "structdecode.verifiers")
    known = {point.name for group in groups for point in entry_points(group=group) if "structdecode." in point.value}
    known |= {"candidates", "beams", "max_sentences"}
    assert {"best-of-n", "staged", "p-true"} <= known
    found = []
    for path in EVALUATION.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            compared = node.comparators if isinstance(node, ast.Compare) else ()
            looked_up = (node.slice,) if isinstance(node, ast.Subscript) else ()
            called = (
                node.args
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
                else ()
            )
            items: list[Any] = [*compared, *looked_up, *called]
            items += [e for i in items if isinstance(i, ast.Tuple | ast.List | ast.Set) for e in i.elts]
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple | ast.List | ast.Set):
                items += node.value.elts
            if isinstance(node, ast.Dict):
                items += [key for key in node.keys if key is not None and "report" not in path.parts]
            names = {i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)}
            found += [f"{path.name}:{node.lineno}: {name}" for name in names & known]  # type: ignore[attr-defined]
    assert found == []


# ------------------------------------------------------------------ verifiers inside verifiers, in studies


def test_nested_verifiers_in_a_file_have_readable_names(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        """
data: mine.jsonl
cells:
  - strategy: best-of-n
    verifiers:
      - log-prob
      - ensemble: {members: {a: log-prob, b: {rule: {pattern: "1"}}}, weights: {a: 2}}
      - {name: by-stage, routes: {caption: p-true}, default: {log-prob: {scope: stage}}}
    sweep: {n: [1, 2], verifier.weights.a: [1, 3]}
"""
    )
    from structdecode.evaluation.study import load_study

    cells = load_study(path).cells
    assert [cell.name for cell in cells] == [
        "best-of-n/log-prob/n=1", "best-of-n/log-prob/n=2",
        *(f"best-of-n/ensemble(a=log-prob, b=rule)/n={n}/verifier.weights.a={w}" for n in (1, 2) for w in (1, 3)),
        "best-of-n/by-stage(caption=p-true, default=log-prob)/n=1",
        "best-of-n/by-stage(caption=p-true, default=log-prob)/n=2",
    ]  # fmt: skip
    assert cells[3].strategy.verifier.weights == {"a": 3.0}  # type: ignore[attr-defined]
    assert cells[3].verifier_name == "ensemble(a=log-prob, b=rule)"


def test_the_same_by_options_is_the_same_cell() -> None:
    nested = "{ensemble: {members: {a: log-prob, b: {rule: {pattern: '1'}}}, weights: {a: 2}}}"
    by_text = from_options(DataSource("d"), ["best-of-n"], [nested]).cells[0]
    settings = ["verifier.members={a: log-prob, b: rule}", "verifier.members.b.pattern=1", "verifier.weights.a=2"]
    by_dots = from_options(DataSource("d"), ["best-of-n", "direct"], ["ensemble"], settings=settings).cells[0]
    assert by_text.digest == by_dots.digest and by_text.name == by_dots.name
    with pytest.raises(ConfigError, match=r"ensemble: members.a: unknown verifier 'log-pro'"):
        from_options(DataSource("d"), ["best-of-n"], ["{ensemble: {members: {a: log-pro}}}"])


def test_function_verifiers_go_by_their_names_in_records_and_failures(tmp_path: Path) -> None:
    @registry.verifier("raises")
    def broken(candidate: Candidate) -> float:
        raise ValueError("no")

    @registry.verifier("counts")
    def counting(candidate: Candidate) -> float:
        return 1.0

    study = Study(DataSource("d"), (CellTemplate("best-of-n", verifiers=("raises", "counts"), sweep={"n": [2]}),))
    compare(study, tmp_path / "run", ScriptedBackend(writing), questions())
    by_cell = read_run(tmp_path / "run").by_cell
    failed, fine = by_cell["best-of-n/raises/n=2"][0], by_cell["best-of-n/counts/n=2"][0]
    assert failed.failures == ("raises: ValueError: no",) and failed.verifier == "raises"
    assert fine.rounds[0].verifier == "counts"
    assert "callable" not in (tmp_path / "run/records.jsonl").read_text()
