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
    """Text 10 layers of 512 (cross-attention at 3 and 8), vision 6+2 layers of 256, 168-pixel tiles."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    from structdecode.backends.transformers import TransformersBackend
    from structdecode.pocket.model import CHAT_TEMPLATE, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = MllamaConfig(
        vision_config={
            "hidden_size": 256, "num_hidden_layers": 6, "num_global_layers": 2, "attention_heads": 4,
            "intermediate_size": 1024, "vision_output_dim": 768, "intermediate_layers_indices": [1, 3],
            "image_size": 168, "patch_size": 14, "max_num_tiles": 4,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8,
            "num_key_value_heads": 8, "intermediate_size": 1536, "cross_attention_layers": [3, 8],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "max_position_embeddings": 4096,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
                parameter.fill_(1.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    images = MllamaImageProcessorPil(size={"height": 168, "width": 168}, max_image_tiles=4)
    return TransformersBackend(model, MllamaProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE), "mllama-48m")
