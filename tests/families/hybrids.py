"""Families that keep something else than keys and values: states of linear attention or of convolutions, latents."""

from __future__ import annotations

from typing import Any

from tests.families.ordinary import QWEN, QWEN_SHOWN, _qwen, _qwen3_vision, _qwen_ids, part
from tests.families.parts import ROPE, model, text, tokenizer, vision


def _qwen3_5(kind: str, **more: Any) -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown=QWEN_SHOWN, **QWEN)
    tower = {key: value for key, value in _qwen3_vision().items() if key != "deepstack_visual_indexes"}
    built = model(
        kind, tok, **_qwen_ids(tok), vision_config=tower,
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0},
                         layer_types=["linear_attention", "full_attention", "linear_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
                         linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4, **more),
    )  # fmt: skip
    return built, _qwen("Qwen3VLProcessor", "qwen3_vl", tok, video="Qwen3VLVideoProcessor", video_at="qwen3_vl")


def qwen3_5() -> tuple[Any, Any]:
    return _qwen3_5("qwen3_5")


def qwen3_5_moe() -> tuple[Any, Any]:
    return _qwen3_5(
        "qwen3_5_moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )


def lfm2_vl() -> tuple[Any, Any]:
    named = {
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail": "<|img_thumbnail|>",
    }
    tok = tokenizer("<|img_row_1_col_1|>", "<|img_row_1_col_2|>", **named)
    built = model(
        "lfm2_vl", tok, image_token_id=tok.image_token_id, projector_hidden_size=32, downsample_factor=2,
        vision_config={"model_type": "siglip2_vision_model", **vision(num_patches=64)},
        text_config={"model_type": "lfm2", **text(tok, layer_types=["conv", "full_attention", "conv"], block_ff_dim=48, block_dim=32, conv_dim=32,
                                                  conv_dim_out=32, block_auto_adjust_ff_dim=False)},
    )  # fmt: skip
    pictures = part("Lfm2VlImageProcessor", "lfm2_vl")(
        downsample_factor=2,
        do_image_splitting=False,
        min_image_tokens=4,
        max_image_tokens=8,
        encoder_patch_size=14,
        tile_size=56,
        max_num_patches=64,
    )
    return built, part("Lfm2VlProcessor", "lfm2_vl")(pictures, tok, chat_template=tok.chat_template)


def kimi_k25() -> tuple[Any, Any]:
    tok = tokenizer(
        "<|media_begin|>",
        "<|media_content|>",
        "<|media_end|>",
        image="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )
    ids = tok.convert_tokens_to_ids
    built = model(
        "kimi_k25", tok, image_token_id=tok.image_token_id, video_token_id=ids("<|kimi_k25_video_placeholder|>"),
        vision_start_token_id=ids("<|media_begin|>"), vision_end_token_id=ids("<|media_end|>"), projection_hidden_size=32,
        vision_config=vision(pos_emb_height=8, pos_emb_width=8),
        text_config={"model_type": "deepseek_v3", **text(
            tok, num_key_value_heads=4, head_dim=4, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=1,
            topk_group=1, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=1)},
    )  # fmt: skip
    size = {"max_height": 56, "max_width": 56}
    pictures = part("Kimi_K25ImageProcessor", "kimi_k25")(patch_size=14, size=size)
    return built, part("Kimi_K25Processor", "kimi_k25")(
        pictures, tok, part("Kimi_K25VideoProcessor", "kimi_k25")(patch_size=14), chat_template=tok.chat_template
    )
