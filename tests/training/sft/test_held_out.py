"""The held-out loss is that of the data, not of how they were cut into batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from structdecode.backends.transformers.collate import Collator
from structdecode.core.schemas import LLAVA_O1
from structdecode.training.buckets import bucket_sampler, counts_pictures, picture_groups
from structdecode.training.examples import ConversationDataset
from structdecode.training.held_out import held_out_batches
from structdecode.training.reward_model.model import from_base
from structdecode.training.reward_model.recipe import VerifierRecipe
from structdecode.training.reward_model.rows import StepDataset
from structdecode.training.reward_model.trainer import RewardTrainer
from structdecode.training.reward_model.trainer import training_arguments as reward_arguments
from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import make_trainer, prepared
from structdecode.training.sft.trainer import training_arguments
from structdecode.verifiers.reward_model.collate import StepCollator
from structdecode.verifiers.reward_model.config import RewardConfig
from tests.training import processors
from tests.training.reward_model import made
from tests.training.sft import sets

SIZES = (1, 2, 3, 4, 8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 rows with a picture, two of them with two, and one without."""
    path = sets.write_set(tmp_path_factory.mktemp("rows") / "set", 10, text_only=1)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in found[:2]:
        row["image"] = [row["image"], "images/5.png"]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def one_by_one(model: Any, dataset: ConversationDataset, collator: Collator) -> float:
    """Sum of the tokens' losses over how many there are."""
    total = count = 0.0
    with torch.inference_mode():
        for example in dataset:  # type: ignore[attr-defined]
            batch = collator([example])
            targets = batch.pop("labels")[0, 1:]
            total += float(cross_entropy(model(**batch).logits[0, :-1].float(), targets, reduction="sum"))
            count += int((targets != -100).sum())
    return total / count


def test_of_tokens_at_every_batch_size(tmp_path: Path, base: Path, data: Path, rows: Path) -> None:
    found = []
    for size in SIZES:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**sets.TINY, "model": str(base), "data": str(data), "held_out": str(rows)}))
        recipe = load_recipe(str(path), {"eval_batch_size": size, "accuracy_questions": 0})
        job = prepared(recipe, tmp_path)
        trainer = make_trainer(job, recipe, training_arguments(recipe, tmp_path), tmp_path)
        found.append(trainer.evaluate()["eval_loss"])
    expected = one_by_one(job.model.eval(), job.held_out, job.collator)
    assert found == pytest.approx([expected] * len(SIZES), abs=1e-5)


def test_of_a_reward_models_stages_at_every_batch_size(tmp_path: Path) -> None:
    path = made.write(tmp_path / "rows.jsonl", 4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[3:4]:
        line["images"] = []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = VerifierRecipe(rows=str(path), model="pocket", held_out=2.0, eval_every=0)
    model, processor = from_base("pocket")
    model.head.value.weight.data.normal_()
    dataset = StepDataset(path, RewardConfig.of(LLAVA_O1))
    collator = StepCollator(processor)
    found = []
    for size in SIZES:
        args = reward_arguments(
            VerifierRecipe(rows=str(path), model="pocket", batch_size=size, eval_every=0), tmp_path, 1
        )
        trainer = RewardTrainer(model, settings, dataset, dataset, collator, args, [])
        found.append(trainer.evaluate()["eval_loss"])
        assert len(np.unique(trainer.scored.rows)) == len(lines)  # type: ignore[union-attr]
    losses = []
    for example in dataset:  # type: ignore[attr-defined]
        batch = collator([example])
        labels = batch.pop("labels")
        with torch.inference_mode():
            logits = model(**batch)["logits"]
        known = labels != -100
        losses += binary_cross_entropy_with_logits(logits[known], labels[known], reduction="none").tolist()
    assert found == pytest.approx([float(np.mean(losses))] * len(SIZES), abs=1e-5)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_every_example_counts_once_and_all_processes_run_as_often(size: int, processes: int) -> None:
    lengths, groups = np.arange(10) % 4 + 5, np.array([0, *[1] * 7, 2, 2])
    parts = [held_out_batches(lengths, groups, size, processes=processes, process=p) for p in range(processes)]
    assert len({len(batches) for batches, _ in parts}) == 1
    counted = [i for part in parts for batch, counts in zip(*part, strict=True) if counts for i in batch]
    assert sorted(counted) == list(range(10))
    for together in zip(*(batches for batches, _ in parts), strict=True):  # parts of a model in parts run the same
        assert len({int(groups[i]) for batch in together for i in batch}) == 1
        assert all(0 < len(batch) <= size for batch in together)


def test_rows_of_one_and_of_two_pictures_share_no_batch_where_they_would_see_each_other(rows: Path) -> None:
    dataset = ConversationDataset(rows)
    apart = {name: counts_pictures(processors.build(name)[0]) for name in ("mllama", "llava", "qwen2.5-vl", "idefics3")}
    assert apart == {"mllama": True, "llava": False, "qwen2.5-vl": False, "idefics3": False}
    assert sorted(np.unique(picture_groups(dataset, True))) == [0, 1, 2]  # type: ignore[arg-type]
    assert sorted(np.unique(picture_groups(dataset, False))) == [0, 1]  # type: ignore[arg-type]
    order = bucket_sampler(dataset, 4, 0, by_count=True).order(0)
    for at in range(0, len(order), 4):
        assert len(set(dataset.pictures[order[at : at + 4]])) == 1


def test_what_batches_may_share_leaves_a_rows_loss_alone(rows: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, processor = processors.build("mllama")
    dataset, collator = ConversationDataset(rows), Collator(processor)

    def loss(*indices: int) -> float:
        """Of the first."""
        batch = collator([dataset[i] for i in indices])
        with torch.inference_mode():
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return float(cross_entropy(logits[0, :-1].float(), batch["labels"][0, 1:]))

    assert loss(5, 6, 7) == pytest.approx(loss(5), abs=1e-5) and not collator.mixed
    assert abs(loss(5, 0) - loss(5)) > 1e-3 and collator.mixed  # else nothing would have to be kept apart
