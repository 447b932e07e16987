"""A run from recipe to checkpoint: what it leaves behind, and that a kill changes nothing of it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError
from structdecode.core.types import Prompt
from structdecode.pocket import world
from structdecode.strategies.staged import Staged
from structdecode.training.sft import checkpoints
from structdecode.training.sft.journal import read_journal
from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import TrainingResult, train
from tests import processes
from tests.training.sft import sets

RecipeFile = Any


def run(path: Path, out: Path, **overrides: Any) -> TrainingResult:
    return train(load_recipe(str(path), overrides), out, quiet=True)


def losses(out: Path) -> list[tuple[int, float, float]]:
    return [
        (row["step"], row["loss"], row["grad_norm"]) for row in read_journal(out / "journal.jsonl") if "loss" in row
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def test_a_run_leaves_a_checkpoint_that_decodes_and_says_how_it_was_made(
    tmp_path: Path, recipe_file: RecipeFile, data: Path
) -> None:
    outcome = run(recipe_file(epochs=6), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert [step for step, *_ in found] == list(range(1, 25))
    assert found[-1][1] < found[0][1] - 0.5
    scene = next(world.scenes("test"))
    prompt, backend = Prompt(scene.question.text, scene.render()), TransformersBackend.load(outcome.model)
    result = decode(prompt, backend=backend, strategy=Staged(max_tokens=12))
    assert result.usage.images_encoded == 1
    card = (outcome.model / "README.md").read_text()
    for part in (hashlib.sha256(data.read_bytes()).hexdigest(), "seed", "transformers", "held-out loss", "lr: 0.001"):
        assert part in card, part
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    journal = read_journal(tmp_path / "run" / "journal.jsonl")
    assert sum("eval_accuracy" in row for row in journal) == 6 and sum("eval_loss" in row for row in journal) == 6
    held_out = (tmp_path / "run" / "held-out.jsonl").read_text().splitlines()
    assert len(held_out) == 4 and set(held_out) < set(data.read_text().splitlines())


def test_a_finished_run_is_not_done_again(tmp_path: Path, recipe_file: RecipeFile) -> None:
    path = recipe_file()
    first = run(path, tmp_path / "run")
    before = (first.model / "model.safetensors").stat().st_mtime_ns
    again = run(path, tmp_path / "run")
    assert again.steps == first.steps and again.held_out_loss == pytest.approx(first.held_out_loss, abs=1e-6)
    assert (first.model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"another recipe \(lr 0.001 there, 0.01 now\): choose another --out"):
        run(path, tmp_path / "run", lr=1e-2)


def test_data_that_changed_is_not_gone_on_with(tmp_path: Path, recipe_file: RecipeFile) -> None:
    data = sets.write_set(tmp_path / "set", 12)
    path = recipe_file(data=str(data), epochs=1)
    run(path, tmp_path / "run")
    data.write_text("\n".join(data.read_text().splitlines()[::-1]) + "\n")
    with pytest.raises(ConfigError, match="another data set"):
        run(path, tmp_path / "run")


def start(path: Path, out: Path) -> processes.Command:
    return processes.start("train", "--recipe", path, "--out", out, "--quiet")


def kill_at(path: Path, out: Path, step: int) -> None:
    """Starts the run and kills it when its journal has passed a step."""
    process = start(path, out)
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        done = [row["step"] for row in read_journal(out / "journal.jsonl")]
        if done and max(done) >= step:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_killed_twice_ends_with_the_same_curve_and_weights(
    tmp_path: Path, recipe_file: RecipeFile, dropout: float
) -> None:
    """Model, optimizer, schedule, random numbers (of the adapters' dropout) and the place in the data."""
    options = {"method": "lora", "lora_dropout": dropout} if dropout else {}
    path = recipe_file(epochs=2, accumulation=2, batch_size=2, save_every=1, accuracy_questions=1, **options)
    run(path, tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_at(path, killed, 2)
    kill_at(path, killed, 5)
    assert start(path, killed).wait(timeout=300) == 0
    assert losses(killed) == losses(tmp_path / "whole")
    one, other = weights(killed), weights(tmp_path / "whole")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_workers_checkpointing_and_accumulation_change_no_loss(tmp_path: Path, recipe_file: RecipeFile) -> None:
    path = recipe_file(epochs=1, accuracy_questions=0)
    run(path, tmp_path / "plain")
    plain = [loss for _, loss, _ in losses(tmp_path / "plain")]
    run(path, tmp_path / "workers", workers=2)
    assert losses(tmp_path / "workers") == losses(tmp_path / "plain")
    for name, settings in {
        "recomputed": {"gradient_checkpointing": True}, "in parts": {"batch_size": 1, "accumulation": 4}
    }.items():  # fmt: skip
        run(path, tmp_path / name, **settings)
        assert [loss for _, loss, _ in losses(tmp_path / name)] == pytest.approx(plain, abs=1e-4), name


def test_a_torn_checkpoint_does_not_count(tmp_path: Path, recipe_file: RecipeFile) -> None:
    run(recipe_file(max_steps=4), tmp_path / "torn")
    place = tmp_path / "torn" / "checkpoints"
    torn = place / "checkpoint-6"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    assert checkpoints.last_checkpoint(place) == place / "checkpoint-4"
    checkpoints.remove_torn(place)
    assert not torn.exists() and checkpoints.step_of(checkpoints.last_checkpoint(place)) == 4


def test_rows_with_and_without_a_picture_never_share_a_batch(
    tmp_path: Path, recipe_file: RecipeFile, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = sets.write_set(tmp_path / "mixed", 16, text_only=5)
    run(recipe_file(data=str(mixed), epochs=1), tmp_path / "run")
    assert "mixes examples" not in caplog.text


def test_a_wrong_share_to_keep_back(tmp_path: Path, recipe_file: RecipeFile) -> None:
    with pytest.raises(ConfigError, match="held_out is 20 of 20 rows"):
        run(recipe_file(held_out=20), tmp_path / "run")
    with pytest.raises(ConfigError, match="names no data"):
        run(recipe_file(data=None), tmp_path / "other")
