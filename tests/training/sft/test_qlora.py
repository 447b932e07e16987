"""Adapters over 4-bit weights, on the embedded model: bitsandbytes multiplies on a CPU, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from structdecode.pocket import checkpoint_path
from structdecode.training.sft.journal import read_journal
from tests import processes


def test_adapters_over_four_bits_learn_and_merge(tmp_path: Path, recipe_file: Any) -> None:
    path = recipe_file(
        method="qlora",
        model=str(checkpoint_path()),
        lr=3e-3,
        precision="bf16",
        accuracy_questions=2,
        lora_dropout=0.0,
        schema="llava-o1",
    )
    done = processes.run("train", "--recipe", path, "--out", tmp_path / "run", "--quiet")
    assert done.returncode == 0, done.stderr[-2000:]
    journal = read_journal(tmp_path / "run" / "journal.jsonl")
    held_out = [row["eval_loss"] for row in journal if "eval_loss" in row]
    assert held_out[-1] < 0.1 and [row["eval_well_formed"] for row in journal if "eval_accuracy" in row][-1] == 1.0
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    merged = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(weight.is_floating_point() for weight in merged.values())  # the base's own weights, not the 4-bit ones
