"""What a study expands to, and that each mistake in one is a single line with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, StructdecodeError, UnknownNameError
from structdecode.evaluation.cells import CellTemplate, expand
from structdecode.evaluation.study import DataSource, from_options, load_study, overridden

DATA = DataSource("pocket:test", limit=5)
EXAMPLES = Path(__file__).parents[2] / "examples/study"


def test_options_become_cells_with_readable_names() -> None:
    study = from_options(
        DATA, ["direct", "best-of-n", "stage-beam"], ["log-prob", "p-true"], budget="tokens=500", sweep=["n=1,4"],
        settings=["temperature=1.0", "beams=1"],
    )  # fmt: skip
    assert [cell.name for cell in study.cells] == [
        "direct",
        "best-of-n/log-prob/n=1", "best-of-n/log-prob/n=4", "best-of-n/p-true/n=1", "best-of-n/p-true/n=4",
        "stage-beam/log-prob/n=1", "stage-beam/log-prob/n=4", "stage-beam/p-true/n=1", "stage-beam/p-true/n=4",
    ]  # fmt: skip
    beam = study.cells[-1]
    assert (beam.strategy.candidates, beam.strategy.beams, beam.strategy.temperature) == (4, 1, 1.0)  # type: ignore[attr-defined]
    assert beam.family == "stage-beam/p-true" and beam.sweep == {"n": 4} and beam.budget == Budget(tokens=500)
    assert study.cells[0].schema.name == "direct" and beam.schema.name == "llava-o1"


def test_a_verifiers_own_settings_reach_it_alone() -> None:
    template = CellTemplate(
        "stage-beam", verifiers=("log-prob", {"name": "self-judge", "max_tokens": 8, "temperature": 0})
    )
    log_prob, judge = expand([template], [0])
    assert judge.strategy.verifier.max_tokens == 8 and judge.strategy.verifier.temperature == 0  # type: ignore[attr-defined]
    assert (log_prob.verifier_name, judge.verifier_name) == ("log-prob", "self-judge")


def test_a_strategys_default_verifier_is_named_in_the_record() -> None:
    assert expand([CellTemplate("stage-beam")], [0])[0].verifier_name == "log-prob"


def test_several_seeds_are_cells_of_their_own() -> None:
    cells = expand([CellTemplate("staged")], [3, 4])
    assert [(c.name, c.seed) for c in cells] == [("staged/seed=3", 3), ("staged/seed=4", 4)]
    assert cells[0].digest != cells[1].digest


def test_the_digest_is_of_what_decides_results() -> None:
    def digest(**fields: object) -> str:
        return expand([CellTemplate("stage-beam", **fields)], [0])[0].digest  # type: ignore[arg-type]

    assert digest() == digest(name="other") == digest(settings={"candidates": 4}), "a name or a default said aloud"
    others = [digest(settings={"candidates": 5}), digest(budget=Budget(tokens=9)), digest(verifiers=("p-true",))]
    assert len({digest(), *others}) == 4


def test_the_example_study_is_the_one_of_the_issue() -> None:
    study = load_study(EXAMPLES / "pocket.yaml")
    assert study.data == DataSource("pocket:test", limit=500)
    assert len(study.cells) == 4 + 5 * (1 + 3 * 3)
    greedy = {cell.name: cell.strategy.temperature for cell in study.cells}  # type: ignore[attr-defined]
    assert [greedy[n] for n in ("direct", "cot", "staged-greedy", "staged-sampled")] == [0, 0, 0, 1]
    assert all(value == 1 for name, value in greedy.items() if "n=" in name)
    judges = [cell.strategy.verifier for cell in study.cells if cell.verifier_name == "self-judge"]  # type: ignore[attr-defined]
    assert {(judge.max_tokens, judge.temperature) for judge in judges} == {(8, 0.0)}
    assert load_study(EXAMPLES / "first.yaml").cells[0].budget == Budget(tokens=2000)


def test_the_command_line_overrides_a_file() -> None:
    study = overridden(load_study(EXAMPLES / "first.yaml"), limit=3, seeds=[7], model="m", data="d.jsonl")
    assert (study.data.limit, study.data.source, study.seeds, study.model) == (3, "d.jsonl", (7,), "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": []}, "at least one --strategy"),
        ({"strategies": ["stage-bean"]}, "did you mean 'stage-beam'"),
        ({"verifiers": ["p-tru"]}, "did you mean 'p-true'"),
        ({"strategies": ["direct"], "verifiers": ["p-true"]}, "none of direct takes a verifier"),
        ({"sweep": ["m=1,2"]}, "unknown sweep 'm'"),
        ({"sweep": ["candidate=1,2"]}, "did you mean 'candidates'"),
        ({"sweep": ["n="]}, "--sweep takes key=value"),
        ({"sweep": ["n=1,1"]}, "two cells are called 'stage-beam/n=1'"),
        ({"sweep": ["n=0"]}, "cell 'stage-beam/n=0': stage-beam: candidates must be at least 1"),
        ({"sweep": ["n=two"]}, "candidates must be a whole number, not 'two'"),
        ({"settings": ["temprature=1"]}, "did you mean 'temperature'"),
        ({"settings": ["temperature"]}, "--set takes key=value"),
        ({"verifiers": ["p-true"], "settings": ["verifier.yess=1"]}, "did you mean 'verifier.yes'"),
        ({"budget": "token=3"}, "did you mean 'tokens'"),
        ({"schema": "llava-o2"}, "did you mean 'llava-o1'"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"strategies": ["staged", "staged"]}, "two cells are called 'staged'"),
    ],
)  # fmt: skip
def test_mistakes_in_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_options(DATA, **{"strategies": ["stage-beam"], **options})  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a study is a mapping"),
        ("cells: {", "study.yaml: while parsing"),
        ("data: x\ncells: []", "cells is empty"),
        ("cells: [{strategy: direct}]", "data is missing"),
        ("data: {sorce: x}\ncells: [{strategy: direct}]", "did you mean 'source'"),
        ("data: {source: x, limits: 3}\ncells: [{strategy: direct}]", "did you mean 'limit'"),
        ("data: {source: x, limit: 0}\ncells: [{strategy: direct}]", "limit must be at least 1"),
        ("data: x\ncell: []", "did you mean 'cells'"),
        ("data: x\ncells: [direct]", "study.yaml: cells[0] is 'direct': a mapping is wanted"),
        ("data: x\ncells: [{strategy: direct, verifer: [a]}]", "did you mean 'verifiers'"),
        (
            "data: x\ncells: [{strategy: direct, verifiers: p-true}]",
            "study.yaml: cells[0].verifiers is 'p-true': a list of",
        ),
        ("data: x\ncells: [{strategy: stage-beam, sweep: {n: 4}}]", "n must be a list of values, not 4"),
        ("data: x\ncells: [{strategy: direct, sweep: {n: [1]}}]", "unknown sweep of 'direct' 'n'"),
        ("data: x\ncells: [{strategy: direct, settings: {temprature: 1}}]", "did you mean 'temperature'"),
        ("data: x\ncells: [{strategy: direct, settings: [1]}]", "cells[0].settings is [1]: a mapping"),
        ("data: x\ncells: [{strategy: best-of-n, verifiers: [{nam: a}]}]", "a mapping with 'name'"),
        ("data: x\nseeds: one\ncells: [{strategy: direct}]", "seeds is 'one': a list of int"),
        ("data: x\nseeds: [1, true]\ncells: [{strategy: direct}]", "seeds[1] is True: int is wanted"),
        ("data: x\ncells: [{strategy: direct}, {strategy: 7}]", "cells[1].strategy is 7: str is wanted"),
        ("data: x\ncells: [{strategy: direct, budget: {tokens: many}}]", "cells[0].budget.tokens is 'many': int or"),
        (
            "data: x\ncells: [{strategy: direct, budget: {tokens: -1}}]",
            "cells[0].budget: budget: tokens must be 0 or more",
        ),
        ("data: x\nbudget: {token: 3}\ncells: [{strategy: direct}]", "did you mean 'tokens'"),
        ("data: {source: x, limit: many}\ncells: [{strategy: direct}]", "data.limit is 'many': int or nothing"),
        ("data: x\nmodel: [a]\ncells: [{strategy: direct}]", "model is ['a']: str or nothing"),
        ("data: x\nseed: 1\nseeds: [2]\ncells: [{strategy: direct}]", "'seed' or 'seeds', not both"),
        ("data: x\ncells: [{strategy: staged}, {name: again, strategy: staged}]", "'staged' and 'again' are the same"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StructdecodeError) as caught:
        load_study(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_is_named_by_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "data: x\ncells:\n- strategy: direct\n- {strategy: best-of-n, verifiers: [{name: p-true, scope: all}]}"
    )
    with pytest.raises(ConfigError, match=r"study\.yaml: cells\[1\]: cell 'best-of-n/p-true': .*scope"):
        load_study(path)


def test_values_of_a_file_are_taken_as_yaml_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "data: x\ncells: [{strategy: best-of-n, settings: {n: 4, temperature: 1, top_p: null, verifier.pattern: 7}, "
        "verifiers: [rule], sweep: {max_tokens: [10, null]}}]"
    )
    small, none = load_study(path).cells
    made: Any = small.strategy
    assert (made.n, made.temperature, made.top_p, made.verifier.pattern, made.max_tokens) == (4, 1.0, None, "7", 10)
    assert none.strategy.max_tokens is None  # type: ignore[attr-defined]
    path.write_text("data: x\ncells: [{strategy: best-of-n, settings: {n: '4'}}]")
    assert load_study(path).cells[0].strategy.n == 4, "as text, as in --set"  # type: ignore[attr-defined]
    path.write_text("data: x\ncells: [{strategy: best-of-n, settings: {n: true}}]")
    with pytest.raises(ConfigError, match="n must be a whole number, not True"):
        load_study(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_study("none.yaml")
    with pytest.raises(UnknownNameError):
        expand([CellTemplate("nothing")], [0])
