"""Models to time: the pocket model, and an Mllama of 48 million parameters with random weights and four tiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))


def pocket() -> Any:
    from structdecode.backends.transformers import TransformersBackend
    from structdecode.pocket import checkpoint_path

    return TransformersBackend.load(str(checkpoint_path()))


def medium() -> Any:
    """Text 10 layers of 512 (cross-attention at 3 and 8), vision 6+2 layers of 256, 168-pixel tiles, float32."""
    vision = {
        "hidden_size": 256, "num_hidden_layers": 6, "num_global_layers": 2, "attention_heads": 4,
        "intermediate_size": 1024, "vision_output_dim": 768, "intermediate_layers_indices": [1, 3],
        "image_size": 168, "patch_size": 14, "max_num_tiles": 4,
    }  # fmt: skip
    text = {
        "hidden_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 8,
        "intermediate_size": 1536, "cross_attention_layers": [3, 8], "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    return _mllama("mllama-48m", vision, text, "cpu", torch.float32)


def eleven_billion(device: str) -> Any:
    """The shape of Llama-3.2-11B-Vision (its config.json), random weights, bfloat16."""
    vision = {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8, "attention_heads": 16,
        "intermediate_size": 5120, "vision_output_dim": 7680, "intermediate_layers_indices": [3, 7, 15, 23, 30],
        "image_size": 560, "patch_size": 14, "max_num_tiles": 4,
    }  # fmt: skip
    text = {
        "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }  # fmt: skip
    return _mllama("mllama-11b", vision, text, device, torch.bfloat16)


def _mllama(name: str, vision: dict[str, Any], text: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    from structdecode.backends.transformers import TransformersBackend
    from structdecode.training.pocket.model import CHAT_TEMPLATE, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = MllamaConfig(
        vision_config=vision,
        text_config={"vocab_size": len(tokenizer), **text, **special},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = MllamaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
                parameter.fill_(1.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    side = vision["image_size"]
    images = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=vision["max_num_tiles"])
    return TransformersBackend(model, MllamaProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE), name)


def idefics3() -> Any:
    """A model that serving engines do support: Idefics3 with the 48 M Mllama's text side, random weights, float32."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    from structdecode.backends.transformers import TransformersBackend
    from tests.backends.transformers.tiny import tokenizer as build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<end_of_utterance>"]})
    config = Idefics3Config(
        vision_config={
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
            "image_size": 168, "patch_size": 14,
        },
        text_config=LlamaConfig(
            vocab_size=len(tokenizer) + 8, hidden_size=512, num_hidden_layers=10, num_attention_heads=8,
            num_key_value_heads=8, intermediate_size=1536, max_position_embeddings=1024,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
    )  # fmt: skip
    model = Idefics3ForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 168}, max_image_size={"longest_edge": 168}, do_image_splitting=False
    )
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=36, chat_template=tokenizer.chat_template)
    return TransformersBackend(model, processor, "idefics3-44m")
