"""Two processes with sharded weights on the CPU (gloo) train what one process trains; whole copies, too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError
from structdecode.core.types import Prompt
from structdecode.pocket import world
from structdecode.strategies.staged import Staged
from structdecode.training.sft.journal import read_journal
from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import train
from structdecode.training.sft.sharding import CheckSharded
from tests.training.sft import sets
from tests.training.sft.launched import launch


def figures(out: Path, name: str) -> list[float]:
    return [row[name] for row in read_journal(out / "journal.jsonl") if name in row]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def shards(out: Path) -> list[dict[str, tuple[str, int, int]]]:
    """Of each process: by weight its type, how many numbers are here and how many there are."""
    return [json.loads((out / f"shards-{rank}.json").read_text()) for rank in (0, 1)]


def decodes(out: Path) -> str:
    scene = next(world.scenes("test"))
    backend = TransformersBackend.load(out / "model")
    prompt = Prompt(scene.question.text, scene.render())
    return decode(prompt, backend=backend, strategy=Staged(max_tokens=12)).draws[0][1].candidate.text


@pytest.fixture
def recipes(tmp_path: Path, recipe_file: Any) -> Any:
    """Recipes of two processes beside each other: ``recipes(name, **settings)``."""
    mixed = sets.write_set(tmp_path / "mixed", 12, text_only=6)
    short = {
        "held_out": 4,
        "max_steps": 3,
        "save_every": 1,
        "accuracy_every": 10,
        "accuracy_questions": 1,
        "eval_every": 2,
    }

    def write(name: str, **settings: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        content = yaml.safe_load(recipe_file(data=str(mixed)).read_text())
        path.write_text(yaml.safe_dump({**content, **short, **settings}))
        return path

    return write


def test_two_sharded_processes_have_the_losses_of_one(tmp_path: Path, recipes: Any) -> None:
    """Half of the rows have no picture. Decoding, gathering, saving and resuming are all from parts."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(load_recipe(str(recipes("one"))), one, quiet=True)
    packaged = dict(load_recipe("llava-o1-11b-fsdp").fsdp_options)
    assert packaged["activation_checkpointing"] and packaged["cpu_ram_efficient_loading"]
    path = recipes("two", batch_size=2, fsdp=True, fsdp_options=packaged)
    assert f"{two}: {len(figures(one, 'loss'))} steps" in launch((path, two))
    for found in shards(two):
        assert all(kind == "DTensor" for kind, _, _ in found.values()) and len(found) > 50
        assert all(here < whole for _, here, whole in found.values() if whole > 1)
    assert all(sum(rank[name][1] for rank in shards(two)) == whole for name, (_, _, whole) in shards(two)[0].items())
    for name in ("loss", "grad_norm", "eval_loss"):
        assert len(figures(one, name)) >= 2 and figures(two, name) == pytest.approx(figures(one, name), abs=1e-4), name
    assert figures(two, "eval_questions") == figures(one, "eval_questions")  # decoded from a gathered copy
    before, expected = weights(two), weights(one)
    assert before.keys() == expected.keys()
    assert all(torch.allclose(before[name], expected[name], atol=1e-4) for name in before)
    assert decodes(two) == decodes(one)

    losses = figures(two, "loss")
    shutil.rmtree(two / "model")
    (two / "checkpoints" / "checkpoint-3" / "complete").unlink()  # as a kill in its saving leaves it
    adapters = tmp_path / "adapters"
    launch((path, two), (recipes("adapters", batch_size=2, fsdp=True, method="lora", max_steps=1), adapters))
    assert figures(two, "loss") == losses
    again = weights(two)
    assert all(torch.equal(again[name], before[name]) for name in again)
    trained = {name: part for name, part in shards(adapters)[0].items() if "lora_" in name}
    assert trained and all(kind == "DTensor" and here < whole for kind, here, whole in trained.values())
    assert any(not torch.equal(weights(adapters)[name], before[name]) for name in before) and decodes(adapters)


def test_two_whole_copies_train_rows_without_a_picture(tmp_path: Path, recipes: Any, recipe_file: Any) -> None:
    """They leave weights without a gradient that the next batch trains: the vision tower, the cross-attention."""
    llava = str(sets.write_model(tmp_path / "llava", "llava"))
    settings: dict[str, Any] = {"batch_size": 2, "accuracy_questions": 0, "save_every": 3}
    kinds = {
        "mllama": {}, "mllama-lora": {"method": "lora"},
        "llava": {"model": llava}, "llava-lora": {"model": llava, "method": "lora"},
    }  # fmt: skip
    runs = [(recipes(name, **settings, **kind), tmp_path / name) for name, kind in kinds.items()]
    told = launch(*runs)
    for path, out in runs:
        alone = tmp_path / f"{out.name}-alone"
        train(load_recipe(str(path), {"batch_size": 4}), alone, quiet=True)
        assert f"{out}: {len(figures(alone, 'loss'))} steps" in told
        assert {kind for rank in shards(out) for kind, _, _ in rank.values()} == {"Parameter"}
        if "lora" not in out.name:  # adapters' dropout is drawn anew in each process
            assert figures(out, "loss") == pytest.approx(figures(alone, "loss"), abs=1e-4)
            assert figures(out, "eval_loss") == pytest.approx(figures(alone, "eval_loss"), abs=1e-4)


def test_sharding_that_is_not_in_force_is_an_error(base: Path) -> None:
    from transformers import AutoModelForImageTextToText, TrainingArguments

    model = AutoModelForImageTextToText.from_pretrained(base)
    args = TrainingArguments(use_cpu=True, fsdp=True, report_to=[])
    with pytest.raises(ConfigError, match=r"fsdp is asked for and is not in force on cpu with 1 processes"):
        CheckSharded().on_train_begin(args, None, None, model=model)
