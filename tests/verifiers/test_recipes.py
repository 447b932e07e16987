"""Recipes of released reward models, on tiny random checkpoints of their architectures: no released weights are here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from structdecode.backends.transformers.loading import load_processor
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.recipes import ProcessReward
from structdecode.verifiers.recipes.recipe import Recipe
from tests.families import ordinary
from tests.families.catalogue import Family
from tests.families.checks import noise

QUESTION = "How many objects are there?"
STEPS = ("I will count the shapes.", "a red square and a blue circle.", "One and one is two.", "2")
PROMPT = Prompt(QUESTION, [noise(56, 56)])


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    roomy = Family("qwen2_5_vl", partial(ordinary.qwen2_5_vl, max_position_embeddings=8192))
    return roomy.save(tmp_path_factory.mktemp("qwen") / "Qwen-VL-PRM-3B")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ask(verifier: Any, *candidates: Candidate, model: Any = None, prompt: Prompt = PROMPT) -> list[Score]:
    return asyncio.run(verifier.score(prompt, candidates, model or EchoModel()))


def naive(place: Path, recipe: Recipe) -> tuple[Any, Any]:
    return (
        AutoModelForImageTextToText.from_pretrained(place).eval(),
        load_processor(place, **recipe.processor),
    )


def logits(model: Any, processor: Any, messages: list[dict[str, Any]], *, generate: bool = True) -> torch.Tensor:
    """[V] behind a chat, by transformers alone."""
    text = processor.apply_chat_template(messages, add_generation_prompt=generate)
    images = [[PROMPT.images[0].image]]
    batch = processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits[0, -1]
    return found


def said(role: str, text: str, *, picture: bool = False) -> dict[str, Any]:
    return {"role": role, "content": [*([{"type": "image"}] if picture else []), {"type": "text", "text": text}]}


def test_qwen_vl_prm_as_its_authors_ask_it(qwen: Path) -> None:
    """Transcribed: a turn a step, each answered with +, and the two labels' logits where the next answer would begin."""
    recipe = Recipe.load("qwen-vl-prm")
    model, processor = naive(qwen, recipe)
    plus, minus = (processor.tokenizer.encode(label, add_special_tokens=False)[0] for label in "+-")
    messages, expected = [said("system", recipe.system)], []
    for number, step in enumerate(STEPS):
        first = f"### Question:\n{QUESTION}\n\n### Solution Process:\n{step}"
        messages.append(said("user", step if number else first, picture=not number))
        behind = logits(model, processor, messages)
        expected.append(float(torch.softmax(behind[[plus, minus]], -1)[0]))
        messages.append(said("assistant", "+"))
    (score,) = ask(ProcessReward(str(qwen)), candidate(*STEPS))
    found = [score.details[name] for name in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")]
    assert found == pytest.approx(expected, rel=1e-4)
    assert score.value == pytest.approx(float(np.mean(expected)), rel=1e-4) and 0 < score.details["label_mass"] < 1


def test_it_keeps_the_laws_of_verifiers(qwen: Path) -> None:
    check_verifier(ProcessReward(str(qwen)), prompt=PROMPT)
