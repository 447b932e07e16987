"""Adapters: they alone are trained, and the merged checkpoint is the model that was trained."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Prompt
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.staged import Staged
from structdecode.training.sft.adapters import attached, language_linears, merge
from structdecode.training.sft.base import load_base
from structdecode.training.sft.recipe import Recipe, load_recipe
from structdecode.training.sft.run import train
from structdecode.training.sft.tags import grow
from structdecode.verifiers.log_prob import LogProb
from tests.training import processors


def answers(backend: TransformersBackend) -> list[str]:
    """Greedy and sampled answers to a few questions, all stages."""
    strategies = Staged(max_tokens=12), BestOfN(n=2, temperature=1.0, max_tokens=12, verifier=LogProb())
    found = []
    for scene in islice(world.scenes("test"), 3):
        for strategy in strategies:
            result = decode(Prompt(scene.question.text, scene.render()), backend=backend, strategy=strategy, seed=1)
            found += [ranked.candidate.text for _, ranked in result.draws]
    return found


@pytest.mark.parametrize("special_tags", [False, True])
def test_only_adapters_are_trained_and_the_merged_model_decodes_the_same(
    tmp_path: Path, recipe_file: Any, base: Path, special_tags: bool
) -> None:
    path = recipe_file(method="lora", lora_rank=4, lr=3e-2, epochs=3, special_tags=special_tags)
    outcome = train(load_recipe(str(path)), tmp_path / "run", quiet=True)
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    whole = {"embed_tokens", "lm_head"} if special_tags else set()
    assert all("lora_" in name or name.split(".")[-2] in whole for name in saved)
    assert any(weight.abs().max() > 0 for name, weight in saved.items() if "lora_B" in name)  # they start at zero
    before, after = load_file(base / "model.safetensors"), load_file(outcome.model / "model.safetensors")
    same = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    changed = set(before) - same
    assert changed and all("language_model." in name or name.split(".")[-2] in whole for name in changed)
    assert not any("vision" in name or "norm" in name for name in changed)

    bare = load_recipe(str(path), {"method": "full"})  # the base model with its tags, nothing attached
    model, processor = load_base(bare, LLAVA_O1)
    unmerged = PeftModel.from_pretrained(model, str(tmp_path / "run" / "adapter")).get_base_model().eval()
    assert any("lora_" in name for name, _ in unmerged.named_parameters())
    merged = answers(TransformersBackend.load(outcome.model))
    assert merged == answers(TransformersBackend(unmerged, processor))
    assert special_tags or merged != answers(TransformersBackend.load(base))


@pytest.mark.parametrize("name", ["mllama", "llava", "qwen2.5-vl", "idefics3"])
def test_adapters_go_on_the_language_model_and_nowhere_else(name: str) -> None:
    model, _ = processors.build(name)
    pattern = language_linears(model)
    chosen = [n for n, module in model.named_modules() if re.fullmatch(pattern, n)]
    linears = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert chosen and set(chosen) < set(linears)
    assert not [
        n for n in chosen if any(word in n for word in ("vision", "visual", "projector", "connector", "lm_head"))
    ]
    layers = [n for n in linears if ".layers." in n and not any(word in n for word in ("vision", "visual"))]
    assert sorted(chosen) == sorted(layers)


@pytest.mark.parametrize("spare", [0, 7, 9])
@pytest.mark.parametrize(("name", "tied"), [("mllama", False), ("llava", False), ("llava", True)])
def test_new_tags_are_merged_whatever_rows_a_model_has_to_spare(
    tmp_path: Path, name: str, spare: int, tied: bool
) -> None:
    """8 tags; the tokenizer has 320 tokens, and the base model as many rows or some more."""
    model, processor = processors.build(name)
    if tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
        model.tie_weights()
    if spare:
        grow(model, 320 + spare)
    model.to(torch.float32).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    recipe = Recipe(model=str(tmp_path / "base"), method="lora", special_tags=True, precision="fp32")
    trained, processor = load_base(recipe, LLAVA_O1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    chat = processors.chat("How many?", "<SUMMARY> red </SUMMARY> 2", images=1)
    text = processor.apply_chat_template(chat, tokenize=False)
    inputs = processor(text=[text], images=[[Image.new("RGB", (40, 60), (90, 9, 9))]], return_tensors="pt")
    with torch.inference_mode():
        expected, found = trained.eval()(**inputs).logits, again(**inputs).logits
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
    same = again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert not same and not json.loads((tmp_path / "merged" / "config.json").read_text()).get("tie_word_embeddings")


@pytest.mark.parametrize("rows", [320, 321, 384])
def test_adapters_of_a_vocabulary_padded_beyond_the_tokenizer_are_merged(tmp_path: Path, rows: int) -> None:
    """Other tools pad the embeddings before they train them: the tokenizer, of 320 tokens, says nothing of it."""
    model, processor = processors.build("llava")
    model.to(torch.float32).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    grow(model, rows)
    trained = attached(model, 2, 4, 0.0, saved_whole=["embed_tokens", "lm_head"])
    trained.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged", base=str(tmp_path / "base"))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    for layer, of in (
        (again.get_output_embeddings(), model.lm_head),
        (again.get_input_embeddings(), model.get_input_embeddings()),
    ):
        assert layer.weight.shape[0] == rows and torch.equal(layer.weight, of.weight)


def test_merging_says_what_is_missing(tmp_path: Path, recipe_file: Any) -> None:
    with pytest.raises(ConfigError, match=r"no adapter_config.json"):
        merge(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="lora_targets: "):
        train(load_recipe(str(recipe_file(method="lora", lora_targets=["nothing"]))), tmp_path / "run", quiet=True)


def test_some_weights_only(tmp_path: Path, recipe_file: Any, base: Path) -> None:
    path = recipe_file(train_only=[r"layers\.3\.mlp"])
    outcome = train(load_recipe(str(path)), tmp_path / "run", quiet=True)
    before, after = load_file(base / "model.safetensors"), load_file(outcome.model / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("layers.3.mlp" in name for name in changed)
    with pytest.raises(ConfigError, match="train_only matches none of the weights"):
        train(load_recipe(str(recipe_file(train_only=["nothing"]))), tmp_path / "other", quiet=True)
