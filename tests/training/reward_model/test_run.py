from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from structdecode.core.errors import ConfigError, DataError, UnknownNameError
from structdecode.training.reward_model.model import from_base
from structdecode.training.reward_model.recipe import VerifierRecipe, built_in, load_recipe
from structdecode.training.reward_model.run import train
from structdecode.training.sft.journal import read_journal
from structdecode.verifiers.reward_model.config import HEAD, RewardConfig
from structdecode.verifiers.reward_model.network import load
from tests import processes
from tests.training.reward_model.made import write


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows") / "rows.jsonl", 40)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows to train on and 6 held out: for what does not depend on how much is learnt."""
    return write(tmp_path_factory.mktemp("few") / "rows.jsonl", 10)


def settings(rows: Path, **more: Any) -> VerifierRecipe:
    given = {
        "method": "full",
        "batch_size": 8,
        "lr": 1e-3,
        "held_out": 0.2,
        "log_every": 1,
        "save_every": 2,
        "eval_every": 0,
    }
    return VerifierRecipe(rows=str(rows), model="pocket", **{**given, **more})


def weights(out: Path) -> dict[str, Any]:
    return {**load_file(out / "model" / "model.safetensors"), **load_file(out / "model" / HEAD)}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


def test_it_learns(rows: Path, tmp_path: Path) -> None:
    """Which stages are good more often takes a few steps; whether a caption is right would take thousands."""
    done = train(settings(rows, max_steps=20, save_every=0, eval_every=10), tmp_path / "run", quiet=True)
    journal = read_journal(tmp_path / "run" / "journal.jsonl")
    found = [line["loss"] for line in journal if "loss" in line]
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    assert sum("eval_auc_caption" in line for line in journal) == 4  # before the first step, and three times
    assert done.figures["SUMMARY"]["accuracy"][0] == 1.0 and set(done.figures["chosen"]) >= {"chosen_right", "chance"}
    config = RewardConfig.load(done.model)
    assert config.trained["sha256"] and config.trained["steps"] == 20 == done.steps and config.base_model == "pocket"
    card = (done.model / "README.md").read_text()
    assert "| CAPTION |" in card and config.trained["sha256"] in card and str(rows.parent) not in card
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


class Stop(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_run_that_was_cut_off_ends_bit_for_bit_as_one_that_was_not(few: Path, tmp_path: Path, method: Any) -> None:
    chosen = settings(few, method=method, epochs=2, batch_size=12, max_steps=4)
    train(chosen, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "cut", quiet=True, callbacks=(Stop(3),))
    assert not (tmp_path / "cut" / "model").exists()
    train(chosen, tmp_path / "cut", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "cut")
    steps = [line["step"] for line in read_journal(tmp_path / "cut" / "journal.jsonl") if "loss" in line]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("method", ["lora", "head"])
def test_what_is_frozen_stays_as_it_was(few: Path, tmp_path: Path, method: Any) -> None:
    chosen = settings(few, method=method, max_steps=2, save_every=0, save_dtype="float16" if method == "head" else None)
    train(chosen, tmp_path / "run", quiet=True)
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors").values()
    assert {tensor.dtype for tensor in kept} == {torch.float16 if method == "head" else torch.float32}
    base, found = (
        model.backbone.state_dict() for model in (from_base("pocket")[0], load(tmp_path / "run" / "model")[0])
    )
    assert found.keys() == base.keys()  # adapters are merged
    moved = {name for name in found if not torch.equal(found[name], base[name])}
    assert bool(moved) == (method == "lora")
    assert all(name.startswith("language_model.") and "proj" in name for name in moved)


def test_a_process_that_was_killed_goes_on(few: Path, tmp_path: Path) -> None:
    train(settings(few, max_steps=6, save_every=1, method="head"), tmp_path / "whole", quiet=True)
    command = [
        "train-verifier", str(few), "--model", "pocket", "--out",
        str(tmp_path / "killed"), "--recipe", "reward-head", "--held-out", "0.2", "--max-steps", "6", "--quiet",
        *(f"--set={line}" for line in ("batch_size=8", "lr=1e-3", "log_every=1", "save_every=1", "eval_every=0")),
    ]  # fmt: skip
    process = processes.start(*command)
    late = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoints/*/complete")) and time.monotonic() < late:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model").exists()
    done = processes.run(*command)
    assert done.returncode == 0 and "| CAPTION |" in done.stdout and "--verifier reward-model" in done.stdout
    assert weights(tmp_path / "killed").keys() == weights(tmp_path / "whole").keys()
    for name, value in weights(tmp_path / "whole").items():  # threads may differ: not bit for bit
        assert value.allclose(weights(tmp_path / "killed")[name], atol=1e-5), name


def test_a_run_directory_belongs_to_one_set_of_settings(few: Path, tmp_path: Path) -> None:
    chosen = settings(few, max_steps=1, method="head", save_every=0)
    train(chosen, tmp_path / "run", quiet=True)
    with pytest.raises(ConfigError, match="is there already: choose another --out"):
        train(chosen, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"another recipe \(lr 0.001 there, 0.01 now\)"):
        train(settings(few, max_steps=1, method="head", save_every=0, lr=1e-2), tmp_path / "run", quiet=True)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["lr"] == 1e-3


def test_wrong_settings() -> None:
    with pytest.raises(UnknownNameError, match="unknown method 'ful'; did you mean 'full'"):
        VerifierRecipe(rows="r.jsonl", method="ful")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        VerifierRecipe(rows="r.jsonl", batch_size=0)


def test_the_packages_recipes_train(few: Path, tmp_path: Path) -> None:
    recipes = built_in()
    assert {"reward-lora", "reward-head", "reward-pocket", "probe"} == set(recipes) and all(
        r.about for r in recipes.values()
    )
    for name in recipes:
        given = {"rows": str(few), "model": "pocket", "held_out": 0.2, "max_steps": 1, "batch_size": 8, "save_every": 0}
        recipe = load_recipe(name, given)
        assert train(recipe, tmp_path / name, quiet=True).steps == 1
        assert load_recipe(str(tmp_path / name / "recipe.yaml")) == recipe, "what a run was made by is a recipe"


def test_what_a_recipe_leaves_out_has_to_be_given(few: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no model: give the base with --model"):
        train(VerifierRecipe(rows=str(few)), tmp_path / "run")
    with pytest.raises(ConfigError, match="names no rows"):
        train(VerifierRecipe(model="pocket"), tmp_path / "run")


def test_another_file_of_rows_is_not_resumed(few: Path, rows: Path, tmp_path: Path) -> None:
    place = tmp_path / "set"
    shutil.copytree(few.parent, place)
    chosen = settings(place / "rows.jsonl", max_steps=1, method="head", save_every=0)
    train(chosen, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    lines = (place / "rows.jsonl").read_text().splitlines()
    (place / "rows.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    with pytest.raises(ConfigError, match=r"another data set \(sha256 "):
        train(chosen, tmp_path / "run", quiet=True)


def test_rows_that_cannot_be_used_are_counted_and_too_many_end_the_run(rows: Path, tmp_path: Path) -> None:
    lines = rows.read_text().splitlines()
    place = tmp_path / "set"
    place.mkdir()
    for picture in rows.parent.glob("*.png"):
        (place / picture.name).write_bytes(picture.read_bytes() if picture.name != "3.png" else b"\x89PNG")
    lines[0] = lines[0].replace("</SUMMARY>", "<|image|> </SUMMARY>")
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n")
    given = {"save_every": 0, "max_steps": 1, "batch_size": 1}
    counted = r"4 of 120 rows \(3 broken-image, 1 image-token-in-text\)"
    with pytest.raises(DataError, match=rf"{counted} cannot be used, more than max_left_out \(1 %\)"):
        train(settings(place / "rows.jsonl", **given), tmp_path / "run", quiet=True)
    done = train(settings(place / "rows.jsonl", max_left_out=0.1, **given), tmp_path / "run", quiet=True)
    assert "| left out | 4 of 120 rows" in (done.model / "README.md").read_text()
