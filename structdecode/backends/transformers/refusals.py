"""Architectures that cannot be decoded from a kept beginning: said before anything is computed, with the reason."""

from __future__ import annotations

import inspect
from typing import Any

from structdecode.core.errors import ModelError

_OF_EVERY_STEP = frozenset({"image_embeds_position_mask", "image_encoder_embeddings", "perceiver_embeddings"})
"""Arguments of a forward by which `generate` hands in the pictures' features with every token (Kosmos 2, Idefics 1)."""


def check_architecture(model: Any, name: str) -> None:
    """Raises `ModelError` where answers cannot branch behind one prompt in a key-value cache."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters' wrappers
    reason = why_not(type(base), base.config)
    if reason:
        raise ModelError(
            f"model {name!r}: {type(base).__name__} cannot be decoded here: {reason}; use a checkpoint whose text model is "
            "a causal decoder with the pictures in its prompt (LLaVA, Qwen-VL, Mllama, InternVL, Gemma 3 and most others)"
        )


def why_not(model_class: type, config: Any = None) -> str:
    """Why models of a class cannot be decoded here; empty where nothing is known against it."""
    takes = _arguments(model_class)
    if getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" in takes:
        return "its answers are not behind the prompt but in a decoder of their own (an encoder-decoder, or built like one)"
    if _OF_EVERY_STEP & takes:
        return "it wants the pictures' features anew with every token"
    if "past_key_values" not in takes:
        return "its forward knows no key-value cache"
    return ""


def _arguments(model_class: type) -> set[str]:
    """Of the forwards of a class and of those that it extends: one that passes on ``**kwargs`` takes what theirs take."""
    forwards = [vars(each)["forward"] for each in model_class.__mro__ if "forward" in vars(each)]
    return {parameter for forward in forwards for parameter in inspect.signature(forward).parameters}
