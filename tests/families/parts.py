"""What all tiny checkpoints are made of: a tokenizer, a chat template, and settings that every text or vision tower knows."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

TEXT = (
    "<SUMMARY> I will count the shapes. </SUMMARY>\n\n<CAPTION> a red square and a blue circle. </CAPTION>\n\n"
    "<REASONING> One and one is two. </REASONING>\n\n<CONCLUSION> 2 </CONCLUSION> How many objects are there?"
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SIDE = 28
"""Pixels of a picture's side where a tower takes squares of one size: 2 by 2 patches of 14."""


def tokenizer(*special: str, image: str = "<image>", shown: str = "", **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE of some 320 tokens that splits tags into pieces.

    Args:
        special: tokens of the family. image: the one that stands for a part of a picture.
        shown: what the chat template puts for a picture; default: ``image``.
        named: further ones that processors ask the tokenizer for, by attribute.
    """
    tokens = dict.fromkeys(
        ["<|pad|>", "<|bos|>", "<|eot|>", "<|user|>", "<|assistant|>", image, *special, *named.values()]
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(tokens), special_tokens=list(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|eot|>", pad_token="<|pad|>",
        extra_special_tokens={"image_token": image, **named}, model_max_length=1 << 20,
    )  # fmt: skip
    fast.chat_template = TEMPLATE.replace("IMAGE", shown or image)
    return fast


def text(tok: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Settings of a text model of three small layers."""
    return {
        "vocab_size": len(tok) + 4, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 1024,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3, "rope_parameters": dict(ROPE),
        **more,
    }  # fmt: skip


def vision(**more: Any) -> dict[str, Any]:
    """Settings of a vision tower of two small layers."""
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 14, **more,
    }  # fmt: skip


def model(kind: str, tok: PreTrainedTokenizerFast, **config: Any) -> Any:
    """A random model of a model type, from sub-configurations given as dictionaries."""
    built = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))
    built.generation_config.eos_token_id, built.generation_config.pad_token_id = 2, 0
    built.generation_config.bos_token_id = 1
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1 and "embed" not in name and float(parameter.std()) < 0.1:
                parameter.normal_(0.0, 0.3)  # towers and projectors with a range of their own: pictures must be seen
    return built.eval()
