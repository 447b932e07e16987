"""Tokens that steer the model are text where somebody wrote them: in a question, an earlier turn, a judged answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.controls import Escaper, control_tokens
from structdecode.core.engine import decode
from structdecode.core.settings import build
from structdecode.core.types import Message, Prompt, Sampling, Schema, Stage
from tests.backends.transformers import tiny
from tests.backends.transformers.conftest import shared_backend

CONTROLS = ("<|eot|>", "<|bos|>", "<|assistant|>", "<|user|>", "<|pad|>", "IMAGE")


def spelled(backend: TransformersBackend, token: str) -> str:
    if token != "IMAGE":
        return token
    image: str = backend.codec.tokenizer.special_tokens_map["image_token"]
    return image


@pytest.mark.parametrize("token", CONTROLS)
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_in_a_prompt_they_are_text(name: str, token: str, picture: Image.Image) -> None:
    backend = shared_backend(name, "slots")
    codec, token = backend.codec, spelled(backend, token)
    number = codec.tokenizer.convert_tokens_to_ids(token)

    def count(prompt: Prompt) -> int:
        return int((codec.inputs(prompt)["input_ids"] == number).sum())

    history = [Message("user", f"Look. {token}"), Message("assistant", f"{token}Yes.")]
    for pictures in ([picture], []):
        asked = Prompt(f"What is {token} that{token}{token}?", pictures, history)
        plain = Prompt("What is it?", pictures, [Message("user", "Look."), Message("assistant", "Yes.")])
        assert count(asked) == count(plain)
        text = codec.decode(codec.inputs(asked)["input_ids"][0].tolist())
        assert text.count(f"{token[0]} {token[1:]}") == 5


@pytest.mark.parametrize("verifier", ["self-judge", "p-true"])
@pytest.mark.parametrize("engine", ["slots", "plain"])
def test_an_answer_that_holds_one_is_judged(
    engine: str, verifier: str, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = shared_backend("mllama", engine)
    schema = Schema("s", (Stage.tagged("CONCLUSION", sampling=Sampling(temperature=1.2, max_tokens=6)),))
    decoded = backend.codec.decode

    def with_picture(ids: Any) -> str:
        return decoded(ids) + "<|image|>"

    monkeypatch.setattr(backend.codec, "decode", with_picture)
    strategy = build("strategies", "best-of-n", {"n": 2, "verifier": verifier})
    result = decode(Prompt("What is it?", [picture]), backend=backend, schema=schema, strategy=strategy, seed=1)
    assert all("<|image|>" in ranked.candidate.text for ranked in result.candidates)
    assert not result.trace.failures


def test_tags_that_are_tokens_are_left_alone() -> None:
    """A checkpoint may have its stages' tags as special tokens: the instruction names them as they are."""
    model, processor = tiny.build("llava")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<SUMMARY>"]})
    model.resize_token_embeddings(len(processor.tokenizer))
    backend = TransformersBackend(model, processor)
    ids = backend.codec.inputs(Prompt("Begin with <SUMMARY>."))["input_ids"][0].tolist()
    assert processor.tokenizer.convert_tokens_to_ids("<SUMMARY>") in ids


@given(st.text(st.sampled_from("<|im>a [IMG]")), st.frozensets(st.sampled_from(["<|im|>", "[IMG]", "<im>", "|im|"])))
def test_no_text_has_one_left_and_other_texts_stay(text: str, tokens: frozenset[str]) -> None:
    escaped = Escaper(tokens)(text)
    assert not any(token in escaped for token in tokens)
    assert escaped.replace(" ", "") == text.replace(" ", "")
    if not any(token in text for token in tokens):
        assert escaped == text


def test_ordinary_words_are_no_control_tokens() -> None:
    model, processor = tiny.build("llava")
    processor.tokenizer.eos_token = "red"
    assert "red" not in control_tokens(processor, model.config)
    assert "<image>" in control_tokens(processor, model.config)
