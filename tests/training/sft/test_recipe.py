"""Recipes: read strictly, changed by flags, and the ones of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from structdecode.core.errors import ConfigError
from structdecode.training.recipe_files import parse_settings
from structdecode.training.sft.recipe import Recipe, built_in, load_recipe


def test_the_packages_recipes_are_what_they_say() -> None:
    recipes = built_in()
    assert {"llava-o1-11b-fsdp", "llava-o1-11b-lora-1gpu", "pocket"} <= set(recipes)
    paper = recipes["llava-o1-11b-fsdp"]
    assert (paper.lr, paper.epochs, paper.batch_size, paper.method, paper.fsdp) == (1e-5, 3, 4, "full", True)
    assert recipes["llava-o1-11b-lora-1gpu"].method == "lora" and recipes["pocket"].data == "pocket"
    assert all(recipe.about for recipe in recipes.values())


def test_a_recipe_is_the_same_after_its_yaml(tmp_path: Path) -> None:
    import yaml

    for name, recipe in built_in().items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe.as_dict()))
        assert load_recipe(str(path)) == recipe


def test_flags_change_values_as_yaml_reads_them() -> None:
    given = parse_settings(
        ["lr=2e-5", "betas=[0.8, 0.9]", "held_out=val.jsonl", "curriculum.answers=7", "max_length=64"]
    )
    changed = load_recipe("pocket", given)
    assert (changed.lr, changed.betas, changed.held_out, changed.max_length) == (2e-5, (0.8, 0.9), "val.jsonl", 64)
    assert changed.curriculum["answers"] == 7 and changed.curriculum["verdicts"] == 32
    assert load_recipe("pocket", parse_settings(["images="])).images is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["learning_rate=1"], "unknown key of a recipe in --set 'learning_rate'"),
        (["lr=fast"], "lr is 'fast': float is wanted"),
        (["lr=0"], "lr must be above 0, not 0"),
        (["method=lorra"], "method is 'lorra': full or lora or qlora is wanted"),
        (["batch_size=0"], "batch_size must be at least 1, not 0"),
        (["lr=.nan"], "lr must be a finite number, not nan"),
        (["lr=nan"], "lr must be a finite number, not nan"),
        (["epochs=.inf"], "epochs must be a finite number, not inf"),
        (["betas=[0.9, 1]"], "betas must be below 1, not 1.0"),
        (["betas=[nan, 0.9]"], "betas must be a finite number"),
        (["held_out=.nan"], "held_out must be a finite number"),
        (["held_out=-3"], "held_out must be above 0, not -3"),
        (["seed=-1"], "seed must be at least 0, not -1"),
        (["seed=4294967296"], "seed must be at most 4294967295"),
        (["max_steps=9999999999"], "max_steps must be at most 2147483647"),
        (["lora_dropout=1"], "lora_dropout must be below 1"),
        (["weight_decay=-1"], "weight_decay must be at least 0"),
        (["max_grad_norm=.inf"], "max_grad_norm must be a finite number"),
        (["eval_batch_size=0"], "eval_batch_size must be at least 1"),
        (["max_length=0"], "max_length must be at least 1"),
        (["scheduler_options={min_lr_ratio: .nan}"], "scheduler_options must be a finite number"),
        (["batch_size=2.5"], "batch_size is 2.5: int is wanted"),
        (["betas=[0.9]"], "betas is [0.9]: a list of 2 float"),
        (["betas=[0.9, x]"], "--set: betas[1] is 'x': float is wanted"),
        (["method=lora", "train_only=[x]"], "train_only is for method full"),
        (["save_every=7", "log_every=5"], "save_every must be a multiple of log_every"),
        (["save_dtype=half"], "save_dtype must be"),
        (["lr"], "--set takes key=value"),
        (["lr=[1"], "not YAML"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("llava-o1-11b-lora-1gpu", parse_settings(settings))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipes_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pocket'"):
        load_recipe("poket")
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(str(tmp_path / "mine.yaml"))
    (tmp_path / "list.yaml").write_text("- lr: 1")
    with pytest.raises(ConfigError, match="a recipe is a mapping"):
        load_recipe(str(tmp_path / "list.yaml"))


def test_defaults_make_a_recipe() -> None:
    assert Recipe().as_dict()["lora_targets"] == "all-linear"
