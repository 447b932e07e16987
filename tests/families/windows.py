"""Families whose text model attends through sliding windows or in chunks, at least in some layers."""

from __future__ import annotations

from typing import Any

from tests.families.ordinary import SQUARE, _llama, _siglip, llava, part, qwen2_5_vl
from tests.families.parts import ROPE, SIDE, model, text, tokenizer, vision

SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
CHUNKED = ["chunked_attention", "full_attention", "chunked_attention"]
GEMMA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
TWO_ROPES = {"full_attention": dict(ROPE), "sliding_attention": dict(ROPE)}


def _gemma_ids(tok: Any) -> dict[str, int]:
    ids = tok.convert_tokens_to_ids
    return {
        "image_token_id": ids("<image_soft_token>"),
        "boi_token_id": ids("<start_of_image>"),
        "eoi_token_id": ids("<end_of_image>"),
    }


def gemma3(window: int = 16) -> tuple[Any, Any]:
    tok = tokenizer(image="<image_soft_token>", shown="<start_of_image>", **GEMMA)
    ids = _gemma_ids(tok)
    built = model(
        "gemma3", tok, tie_word_embeddings=False, mm_tokens_per_image=4, image_token_index=ids["image_token_id"], boi_token_index=ids["boi_token_id"],
        eoi_token_index=ids["eoi_token_id"], vision_config=_siglip(image_size=56),
        text_config=text(tok, tie_word_embeddings=False, sliding_window=window, layer_types=SLIDING, rope_parameters=TWO_ROPES, query_pre_attn_scalar=8),
    )  # fmt: skip
    pictures = part("Gemma3ImageProcessor", "gemma3")(size={"height": 56, "width": 56})
    return built, part("Gemma3Processor", "gemma3")(pictures, tok, image_seq_length=4, chat_template=tok.chat_template)


def gemma4(window: int = 16, **more: Any) -> tuple[Any, Any]:
    named = {**GEMMA, "video_token": "<video>", "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"}
    tok = tokenizer(image="<image_soft_token>", **named)
    built = model(
        "gemma4", tok, tie_word_embeddings=False, **_gemma_ids(tok), audio_config=None,
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                       "head_dim": 8, "patch_size": 14, "position_embedding_size": 64, "pooling_kernel_size": 2},
        text_config=text(tok, tie_word_embeddings=False, sliding_window=window, layer_types=SLIDING[:2] + SLIDING[:2], num_hidden_layers=4, rope_parameters=TWO_ROPES, global_head_dim=8,
                         vocab_size_per_layer_input=len(tok) + 4, hidden_size_per_layer_input=8, **{"num_kv_shared_layers": 0, **more}),
    )  # fmt: skip
    pictures = part("Gemma4ImageProcessor", "gemma4")(patch_size=14, pooling_kernel_size=2, max_soft_tokens=70)
    videos = part("Gemma4VideoProcessor", "gemma4")(patch_size=14, pooling_kernel_size=2, max_soft_tokens=70)
    audio = part("Gemma4AudioFeatureExtractor", "gemma4")()
    return built, part("Gemma4Processor", "gemma4")(audio, pictures, tok, videos, chat_template=tok.chat_template)


def gemma4_shared() -> tuple[Any, Any]:
    return gemma4(num_kv_shared_layers=2)


def cohere2_vision() -> tuple[Any, Any]:
    named = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tok = tokenizer(image="<|IMG_PATCH|>", **named)
    built = model(
        "cohere2_vision", tok, image_token_id=tok.image_token_id, downsample_factor=2, alignment_intermediate_size=48,
        vision_config=_siglip(image_size=32, patch_size=4),
        text_config={"model_type": "cohere2", **text(tok, sliding_window=16, layer_types=SLIDING)},
    )  # fmt: skip
    pictures = part("Cohere2VisionImageProcessor", "cohere2_vision")(
        size={"height": 32, "width": 32}, patch_size=4, downsample_factor=2, max_patches=2
    )
    return built, part("Cohere2VisionProcessor", "cohere2_vision")(pictures, tok, chat_template=tok.chat_template)


def aya_vision() -> tuple[Any, Any]:
    special = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tok = tokenizer(*special)
    built = model(
        "aya_vision", tok, image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2, adapter_layer_norm_eps=1e-6,
        alignment_intermediate_size=48, vision_feature_select_strategy="full", vision_feature_layer=-1, vision_config=_siglip(image_size=56),
        text_config={"model_type": "cohere2", **text(tok, sliding_window=16, layer_types=SLIDING)},
    )  # fmt: skip
    pictures = part("GotOcr2ImageProcessor", "got_ocr2")(
        size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=2
    )
    return built, part("AyaVisionProcessor", "aya_vision")(
        pictures,
        tok,
        patch_size=14,
        img_size=56,
        downsample_factor=2,
        image_token="<image>",
        chat_template=tok.chat_template,
    )


def llama4(chunk: int = 16) -> tuple[Any, Any]:
    special = ["<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
    tok = tokenizer(*special, image="<|image|>")
    built = model(
        "llama4", tok, image_token_index=tok.convert_tokens_to_ids("<|patch|>"),
        vision_config={**vision(image_size=56), "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
                       "intermediate_size": 128, "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
        text_config=text(tok, attention_chunk_size=chunk, layer_types=CHUNKED, num_local_experts=2, intermediate_size_mlp=48,
                         interleave_moe_layer_step=2, no_rope_layers=[1, 0, 1], attn_temperature_tuning=True, floor_scale=32),
    )  # fmt: skip
    pictures = part("Llama4ImageProcessor", "llama4")(size={"height": 56, "width": 56}, max_patches=2)
    return built, part("Llama4Processor", "llama4")(pictures, tok, patch_size=14, chat_template=tok.chat_template)


def qwen2_5_vl_window() -> tuple[Any, Any]:
    return qwen2_5_vl(use_sliding_window=True, sliding_window=16, max_window_layers=1)


def llava_mistral_window() -> tuple[Any, Any]:
    return llava(text_config=_llama(tokenizer(), "mistral", sliding_window=16))


def paligemma(kind: str = "gemma") -> tuple[Any, Any]:
    tok = tokenizer(*[f"<loc{i:04d}>" for i in range(4)])
    more = {"layer_types": SLIDING, "sliding_window": 16, "query_pre_attn_scalar": 8} if kind == "gemma2" else {}
    built = model(
        "paligemma", tok, image_token_index=tok.image_token_id, projection_dim=32, vision_config=_siglip(projection_dim=32),
        text_config={"model_type": kind, **text(tok, **more)},
    )  # fmt: skip
    pictures = part("SiglipImageProcessor", "siglip")(size=SQUARE["size"])
    pictures.image_seq_length = (SIDE // 14) ** 2
    return built, part("PaliGemmaProcessor", "paligemma")(pictures, tok, chat_template=tok.chat_template)


def paligemma2() -> tuple[Any, Any]:
    return paligemma("gemma2")
