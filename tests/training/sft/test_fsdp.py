"""Two processes with sharded weights on the CPU (gloo) train what one process trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from structdecode.training.sft.journal import read_journal
from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import train


def figures(out: Path, name: str) -> list[float]:
    return [row[name] for row in read_journal(out / "journal.jsonl") if name in row]


def launch(path: Path, out: Path) -> str:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "structdecode",
        "train", "--recipe", str(path), "--set", "batch_size=2", "--set", "fsdp=true", "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def test_two_processes_have_the_losses_of_one(tmp_path: Path, recipe_file: Any) -> None:
    path = recipe_file()
    train(load_recipe(str(path)), tmp_path / "one", quiet=True)
    assert launch(path, tmp_path / "two").count("Trained 8 steps") == 1
    for name in ("loss", "grad_norm", "eval_loss"):
        one, two = figures(tmp_path / "one", name), figures(tmp_path / "two", name)
        assert len(one) == len(two) >= 2 and two == pytest.approx(one, abs=1e-4), name
    assert figures(tmp_path / "two", "eval_questions") == [2, 2]  # decoded from a gathered copy
    weights = [load_file(tmp_path / out / "model" / "model.safetensors") for out in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])

    before = figures(tmp_path / "two", "loss")
    shutil.rmtree(tmp_path / "two" / "model")
    (tmp_path / "two" / "checkpoints" / "checkpoint-8" / "complete").unlink()  # as a kill in its saving leaves it
    launch(path, tmp_path / "two")
    assert figures(tmp_path / "two", "loss") == before
    again = load_file(tmp_path / "two" / "model" / "model.safetensors")
    assert all(torch.equal(again[name], weights[1][name]) for name in again)
