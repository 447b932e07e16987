"""A model as a second opinion: asked only where the rules say wrong, once a text, at a cost of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError
from structdecode.core.types import Candidate, Prompt, Stage
from structdecode.evaluation.costs import cost
from structdecode.evaluation.study import DataSource, Study, from_options
from structdecode.matching.types import Question
from structdecode.records.store import read_run
from tests.evaluation.pocket_study import compare

ANIMALS = [
    Question("1", "What animal is it?", ("dog",)),
    Question("2", "What animal is in the garden?", ("cat",)),
    Question("3", "What animal is on the roof?", ("bird",)),
]


def answering(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    return {"is it": "a hound", "garden": "cat"}.get(
        next((k for k in ("is it", "garden") if k in prompt.question), ""), "a stone"
    )


class Judge:
    """Knows one synonym, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        self.asked.append(prompt.question)
        return "yes" if "hound" in prompt.question and "dog" in prompt.question else "no"


def study(**options: Any) -> Study:
    return from_options(DataSource("animals.jsonl"), ["best-of-n"], [], sweep=["n=3"], schema="direct", **options)


def test_the_judge_turns_a_wrong_verdict_and_its_cost_is_apart(tmp_path: Path) -> None:
    judge, backend = Judge(), ScriptedBackend(answering)
    compare(study(judge="other"), tmp_path / "judged", backend, ANIMALS, judge=ScriptedBackend(judge, "other"))
    found = {record.id: record for record in read_run(tmp_path / "judged").records}
    assert {i: (r.correct, r.rule) for i, r in found.items()} == {
        "1": (True, "judge:equivalent"), "2": (True, "text:exact"), "3": (False, "judge:different"),
    }  # fmt: skip
    assert all(candidate.correct for candidate in found["1"].pool)
    assert len(judge.asked) == 2, "three equal candidates are asked about once, a right one never"
    assert found["1"].usage["judge"]["generated_tokens"] == 3 and found["2"].usage["judge"]["generated_tokens"] == 0
    compare(study(), tmp_path / "ruled", backend, ANIMALS)
    plain = {record.id: record for record in read_run(tmp_path / "ruled").records}
    assert not plain["1"].correct and "judge" not in plain["1"].usage
    assert [cost(found[i], "tokens") for i in "123"] == [cost(plain[i], "tokens") for i in "123"]
    assert {record.key for record in found.values()}.isdisjoint(record.key for record in plain.values())


def test_a_run_with_a_judge_is_another_study(tmp_path: Path) -> None:
    backend = ScriptedBackend(answering)
    compare(study(), tmp_path, backend, ANIMALS)
    with pytest.raises(ConfigError, match=r"another study.*judge"):
        compare(study(judge="self"), tmp_path, backend, ANIMALS, judge=backend)
