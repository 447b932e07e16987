"""Builds the pocket model: a 2.4 M parameter Mllama, its word-level tokenizer and its processor."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from structdecode.core.schemas import BUILT_IN
from structdecode.pocket import world
from structdecode.verifiers import prompts

WIDTH = 128
TEXT_LAYERS = 8
CROSS_ATTENTION_LAYERS = [1, 3]
HEADS = 4
SPECIAL = ["<|pad|>", "<|bos|>", "<|eot|>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", "<unk>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|eot|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


PLURAL = "|".join(f"(?<={noun})s\\b" for noun in (*world.SHAPES, "object"))
"""A plural's s is a token of its own, so that squares are known to be more of a square."""


def vocabulary() -> list[str]:
    """Every word of the world, of the built-in instructions and of the verifiers' questions, in a fixed order."""
    texts = [
        " ".join([*world.COLOURS, *world.SHAPES, "object"]),
        " ".join(world.CELLS),
        " ".join(str(n) for n in range(world.GRID**2 + 1)),
        "How many are there? Subtract all. How many objects are left?",
        "Count the. Leave out the and count the rest. So",
        prompts.JUDGE, prompts.PRE_CHECK, prompts.P_TRUE, prompts.WHOLE_ANSWER_RUBRIC, *prompts.RUBRICS.values(),
        *(schema.instruction for schema in BUILT_IN.values()),
        "I choose response 1 2 yes no correct incorrect summary caption reasoning conclusion answer",
        "What is in the picture? Describe the image of a an and or not none",
    ]  # fmt: skip
    text = re.sub(r"\{\w+\}|<[^>]*>", " ", " ".join(texts).lower())
    return list(dict.fromkeys(["##s", *re.findall(r"\w+|[^\w\s]", re.sub(PLURAL, "", text))]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower case, punctuation apart, each stage tag one (not special) token."""
    stage_tags = [tag for stage in BUILT_IN["llava-o1"].stages for tag in (stage.begin, stage.end)]
    words = [*SPECIAL, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            *(normalizers.Replace(f"{noun}s", f"{noun} ##s") for noun in (*world.SHAPES, "object")),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"##s|[^\w\s]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>", eos_token="<|eot|>", pad_token="<|pad|>", unk_token="<unk>",
        padding_side="left", model_max_length=512,
    )  # fmt: skip
    from tokenizers import AddedToken

    fast.add_tokens([AddedToken(tag, normalized=False, special=False, lstrip=True, rstrip=True) for tag in stage_tags])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    """The Mllama processor for one 64-pixel tile."""
    image_processor = MllamaImageProcessorPil(
        size={"height": world.SIZE, "width": world.SIZE},
        max_image_tiles=1,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return MllamaProcessor(image_processor=image_processor, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(tokenizer: PreTrainedTokenizerFast) -> MllamaForConditionalGeneration:
    """A freshly initialised model (uses torch's global generator: seed it first)."""
    ids = tokenizer.convert_tokens_to_ids
    config = MllamaConfig(
        vision_config={
            "hidden_size": WIDTH, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": HEADS,
            "intermediate_size": 3 * WIDTH, "vision_output_dim": 3 * WIDTH, "intermediate_layers_indices": [0, 1],
            "image_size": world.SIZE, "patch_size": world.CELL, "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "intermediate_size": 3 * WIDTH,
            "cross_attention_layers": CROSS_ATTENTION_LAYERS, "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": ids("<|bos|>"), "eos_token_id": ids("<|eot|>"), "pad_token_id": ids("<|pad|>"),
        },
        image_token_index=ids("<|image|>"),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    _initialise(model)
    model.generation_config.eos_token_id = ids("<|eot|>")
    model.generation_config.pad_token_id = ids("<|pad|>")
    return model


@torch.no_grad()
def _initialise(model: MllamaForConditionalGeneration) -> None:
    """Scales fit for training from scratch: Mllama's own leave the gates closed, so that it never sees a picture."""
    for name, parameter in model.named_parameters():
        if "gate" in name.rsplit(".", 1)[-1]:
            parameter.fill_(1.0)
        elif "positional_embedding" in name and name.endswith("embedding"):
            parameter.normal_(0.0, 0.3)
        elif "embed_tokens" in name:
            parameter.normal_(0.0, 0.5)
        elif parameter.dim() >= 2 and name.endswith("weight") and "tile_" not in name:
            std = 1 / math.sqrt(parameter[0].numel())
            if name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight")):
                std /= math.sqrt(2 * TEXT_LAYERS)
            parameter.normal_(0.0, std)
