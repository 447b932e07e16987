"""Training of a probe on the pocket model, from rows as `structdecode export --to prm` writes them."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.lookup import load_backend
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.testing import EchoModel
from structdecode.training.reward_model.opening import VerifierTrainingResult
from structdecode.training.reward_model.recipe import VerifierRecipe, load_recipe
from structdecode.training.reward_model.run import train
from structdecode.verifiers.probe import WEIGHTS, Probe, ProbeConfig
from tests import processes
from tests.training.reward_model.made import write


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows") / "rows.jsonl", 40)


def settings(rows: Path, **more: Any) -> VerifierRecipe:
    return load_recipe("probe", {"rows": str(rows), "model": "pocket", "weight_decay": 1.0, **more})


@pytest.fixture(scope="module")
def done(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> VerifierTrainingResult:
    return train(settings(rows), tmp_path_factory.mktemp("run") / "run", quiet=True)


def lines_of(rows: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows.read_text().splitlines()]


def copied(rows: Path, place: Path, lines: list[dict[str, Any]]) -> Path:
    shutil.copytree(rows.parent, place)
    (place / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place / "rows.jsonl"


def weights(out: Path) -> dict[str, Any]:
    return load_file(out / "model" / WEIGHTS)


def test_it_learns_what_answers_are_never_right(done: VerifierTrainingResult) -> None:
    """A third of the answers say 16, a third misread the picture: the first can be seen in the states."""
    config = ProbeConfig.load(done.model)
    (area, error), (chance, _) = done.figures["auc_within"]["probe"], done.figures["auc_within"]["constant"]
    assert area - 3 * error > chance == 0.5
    for name in ("brier", "log_loss"):
        assert done.figures[name]["probe"][0] < done.figures[name]["constant"][0]
    assert {name: {k: tuple(v) for k, v in kinds.items()} for name, kinds in config.held_out.items()} == done.figures
    assert config.layers == (4, 8) and config.width == 128 and config.names[-1] == "CONCLUSION"
    assert config.base_model == "pocket" and len(config.base_digest) == 16 and config.separator == "\n\n"
    assert config.trained["answers"] == 120 and config.trained["right"] == 40 and config.trained["sha256"]
    assert config.trained["steps"] == done.steps > 5 and config.trained["rows"] == "rows.jsonl"


def test_in_a_search_it_says_what_it_was_fitted_to_say(rows: Path, done: VerifierTrainingResult) -> None:
    """Right answers above those that say 16, of the questions that it was fitted on."""
    probe, found = Probe(str(done.model)), []
    with load_backend("pocket") as backend:  # type: ignore[attr-defined]
        for first in lines_of(rows)[::3]:
            prompt = Prompt(first["prompt"], [rows.parent / first["images"][0]])
            stages = dict(zip(first["stages"], first["completions"], strict=True))
            texts = {stage: text.split(">", 1)[1].rsplit("</", 1)[0].strip() for stage, text in stages.items()}
            answers = [
                Candidate(tuple(Span(stage, text) for stage, text in {**texts, **change}.items()))
                for change in ({}, {"CONCLUSION": "16"})
            ]
            found.append(asyncio.run(probe.score(prompt, answers, EchoModel().on(backend))))
    assert sum(right.value > wrong.value for right, wrong in found) > 35


def test_the_same_rows_give_the_same_probe_and_states_are_not_read_twice(
    rows: Path, done: VerifierTrainingResult, tmp_path: Path
) -> None:
    """As a run that was killed right before its end is resumed."""
    out, cut = done.model.parent, tmp_path / "cut"
    shutil.copytree(out, cut, ignore=shutil.ignore_patterns("model"))
    train(settings(rows), cut, quiet=True)
    assert all((weights(out)[name] == value).all() for name, value in weights(cut).items())
    shutil.rmtree(cut / "model")
    (place,) = (cut / "states").iterdir()
    kept = dict(np.load(place))
    np.savez(place, **{**kept, "states": kept["states"][::-1]})
    train(settings(rows), cut, quiet=True)
    assert not np.allclose(weights(out)["weight"], weights(cut)["weight"])
    shutil.rmtree(cut)
    train(settings(rows, batch_size=7), cut, quiet=True)
    np.testing.assert_allclose(weights(cut)["weight"], weights(out)["weight"], atol=1e-3)


def test_questions_that_share_a_picture_share_a_fold(rows: Path, tmp_path: Path) -> None:
    """The same picture under another question's name: nothing is known of it that the others do not know."""
    lines = lines_of(rows)
    for line in lines:
        line["images"] = ["0.png"]
    place = copied(rows, tmp_path / "one", lines)
    with pytest.raises(ConfigError, match="folds is 5, but there are 1 questions that share no picture"):
        train(settings(place), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists(), "a mistake claims no directory"
    for line in lines:
        line["prompt"], line["images"], line["origin"] = "How many?", [], {"id": str(len(line))}
    place = copied(rows, tmp_path / "none", lines)
    with pytest.raises(ConfigError, match="there are 1 questions"):
        train(settings(place), tmp_path / "run", quiet=True)


def test_answers_that_are_not_whole_or_too_long_are_left_out(
    rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of(rows)[:60]
    for line in lines[::10]:
        line |= {name: line[name][:2] for name in ("completions", "stages", "labels")}
    lines[1]["completions"][2] = f"<REASONING> {'a1 red square. ' * 200} </REASONING>"
    place = copied(rows, tmp_path / "set", lines)
    with caplog.at_level(logging.WARNING):
        done = train(settings(place), tmp_path / "run", quiet=True)
    trained = ProbeConfig.load(done.model).trained
    assert trained["answers"] == 53 and trained["not read"] == 1
    assert "left out: 1 of 54 answers; the first: " in caplog.text and "the model's context is 512" in caplog.text
    assert "not whole: 6" in (tmp_path / "run" / "data.yaml").read_text()
    for line in lines:
        line |= {name: line[name][:2] for name in ("completions", "stages", "labels")}
    place = copied(rows, tmp_path / "begun", lines)
    with pytest.raises(DataError, match="no answer has a CONCLUSION, whose label says whether all of it is right"):
        train(settings(place), tmp_path / "other", quiet=True)


def test_wrong_settings(rows: Path, tmp_path: Path, done: VerifierTrainingResult) -> None:
    for layers, said in (
        ((9,), "hidden_layers: 9 is none of the model's: 0"),
        ((8, -1), r"layers must name different layers, at least one, not \[8, -1\]"),
        ((), "at least one, not"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(settings(rows, layers=layers), tmp_path / "run", quiet=True)
    with pytest.raises(ConfigError, match="folds must be at least 2, not 1"):
        settings(rows, folds=1)
    with pytest.raises(ConfigError, match="is there already: choose another --out"):
        train(settings(rows), done.model.parent, quiet=True)


def test_on_the_command_line(rows: Path, tmp_path: Path) -> None:
    few = copied(rows, tmp_path / "few", lines_of(rows)[:30])
    trained = processes.run(
        "train-verifier", str(few), "--model", "pocket", "--recipe", "probe", "--out", str(tmp_path / "run"),
        "--set", "layers=[-1]", "--set", "folds=3", "--quiet",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "| AUC within a question | " in trained.stdout and "--verifier probe --set verifier.path=" in trained.stdout
    assert ProbeConfig.load(tmp_path / "run" / "model").layers == (8,)
    used = processes.run(
        "generate", "--image", str(rows.parent / "0.png"), "--question", lines_of(rows)[0]["prompt"], "--strategy", "stage-beam",
        "--verifier", "probe", "--set", f"verifier.path={tmp_path / 'run' / 'model'}",
    )  # fmt: skip
    assert used.returncode == 0 and used.stdout.strip(), used.stderr
