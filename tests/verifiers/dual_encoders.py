"""Tiny dual encoders of text and pictures with random weights, as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "square", "circle", "no", "is", "caption"]
CONTEXT = 8


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a word."""
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save(kind: str, place: Path) -> Path:
    """``clip`` or ``siglip``; returns the place."""
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "projection_size": 16}
    text = {**layers, **ends, "vocab_size": len(WORDS), "max_position_embeddings": CONTEXT}
    vision = {**layers, "image_size": 16, "patch_size": 8}
    model: Any
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        pictures: Any = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        pictures = SiglipImageProcessor(size={"height": 16, "width": 16})
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for part in (model, tokenizer(), pictures):
        part.save_pretrained(place)
    described = json.loads((place / "preprocessor_config.json").read_text())
    described["processor_class"] = {"clip": "CLIPProcessor", "siglip": "SiglipProcessor"}[kind]
    (place / "preprocessor_config.json").write_text(json.dumps(described))
    return place
