"""The pocket recipe in small: it learns, resumes after a kill to the same weights, and ends as a checkpoint."""

from __future__ import annotations

import pickle
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
from structdecode.training.pocket import examples
from structdecode.training.pocket.curriculum import Curriculum, Plan, two_samples
from structdecode.training.pocket.model import build_model, build_processor, build_tokenizer
from structdecode.training.pocket.trainer import PocketTrainer, prepare_pocket
from structdecode.training.sft.journal import read_journal
from structdecode.training.sft.recipe import Recipe, load_recipe
from structdecode.training.sft.run import train

SMALL = {
    "max_steps": 6, "batch_size": 10, "log_every": 1, "save_every": 2, "eval_every": 4, "accuracy_every": 4,
    "accuracy_questions": 2, "warmup": 2, "scheduler_options": {"num_decay_steps": 3, "min_lr_ratio": 0.02},
    "curriculum.answers": 6, "curriculum.verdicts": 4, "curriculum.comparisons": 2, "curriculum.pre_checks": 2,
    "curriculum.verify_from": 0.3, "curriculum.own_samples_every": 2, "curriculum.own_samples_batch": 3,
}  # fmt: skip


def small(**more: Any) -> Recipe:
    return load_recipe("pocket", {**SMALL, **more})


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind its own samples: the pool, the scenes drawn and the generator have to come back as they were."""
    whole = train(small(), tmp_path / "whole", quiet=True)
    compute, calls = PocketTrainer.compute_loss, []

    def dies(self: PocketTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(inputs.get("step"))
        if inputs.get("step") == 5:
            raise KeyboardInterrupt
        return compute(self, model, inputs, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(PocketTrainer, "compute_loss", dies)
        train(small(), tmp_path / "parts", quiet=True)
    again = train(small(), tmp_path / "parts", quiet=True)
    assert [row["loss"] for row in read_journal(tmp_path / "parts" / "journal.jsonl") if "loss" in row] == [
        row["loss"] for row in read_journal(tmp_path / "whole" / "journal.jsonl") if "loss" in row
    ]
    one, other = (load_file(outcome.model / "model.safetensors") for outcome in (whole, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert next(iter(one.values())).dtype == torch.float16
    scene = next(world.scenes("test"))
    backend = TransformersBackend.load(again.model)
    assert decode(
        Prompt(scene.question.text, scene.render()), backend=backend, strategy="staged"
    ).usage.generated_tokens


def test_loss_goes_down(tmp_path: Path) -> None:
    options = {"max_steps": 30, "batch_size": 16, "curriculum.verify_from": 1.0, "curriculum.own_samples_from": 1.0}
    train(small(**options, eval_every=0, accuracy_every=0, accuracy_questions=0), tmp_path, quiet=True)
    found = [row["loss"] for row in read_journal(tmp_path / "journal.jsonl") if "loss" in row]
    assert sum(found[-5:]) < 0.6 * sum(found[:5])


def test_all_groups_of_lessons_carry_loss() -> None:
    tokenizer = build_tokenizer()
    plan = Plan(10, 4, 1, answers=3, verdicts=2, comparisons=2, pre_checks=1, verify_from=0.5)
    early, late = (Curriculum(plan, tokenizer).groups(step) for step in (0, 5))
    assert {name: len(group) for name, group in early.items()} == {"answers": 4}
    assert {name: len(g) for name, g in late.items()} == {
        "answers": 3,
        "verdicts": 2,
        "comparisons": 2,
        "pre_checks": 1,
    }
    assert all(any(t >= 0 for t in encoded.targets) for group in late.values() for encoded in group)


def test_a_curriculum_goes_on_where_it_was() -> None:
    plan, tokenizer = (
        Plan(10, 4, 1, answers=3, verdicts=6, comparisons=4, pre_checks=2, verify_from=0.5),
        build_tokenizer(),
    )
    one, other = Curriculum(plan, tokenizer), Curriculum(plan, tokenizer)
    for _ in range(5):
        scene = one.scene()
        one.pool.append((examples.corrupted_attempt(scene, one.rng), examples.true_attempt(scene)))
    one.groups(5)
    other.load_state_dict(pickle.loads(pickle.dumps(one.state_dict())))
    assert other.groups(6) == one.groups(6)
    with pytest.raises(ValueError, match="cannot go back"):
        one.load_state_dict({**one.state_dict(), "drawn": 1})


def test_own_samples_are_two_each_and_the_same_for_a_seed() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model, processor = build_model(tokenizer), build_processor(tokenizer)
    scenes = [next(world.scenes("train", seed)) for seed in range(3)]
    found = two_samples(model, processor, scenes, seed=4)
    assert [len(pair) for pair in found] == [2, 2, 2]
    assert found == two_samples(model, processor, scenes, seed=4)
    curriculum = Curriculum(Plan(10, 4, 1, own_samples_batch=4), tokenizer)
    curriculum.sample_own(model, processor, step=0)
    assert all(not (first.right and second.right) for first, second in curriculum.pool)


def test_settings_that_the_curriculum_cannot_have() -> None:
    with pytest.raises(ConfigError, match="unknown setting of the curriculum 'anwers'; did you mean 'answers'"):
        prepare_pocket(small(**{"curriculum.anwers": 1}))
    with pytest.raises(ConfigError, match="in one process"):
        prepare_pocket(small(accumulation=2))
