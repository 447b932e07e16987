"""Families whose text model attends fully and causally: pictures as tokens among the others."""

from __future__ import annotations

import importlib
from typing import Any

from tests.families.parts import ROPE, SIDE, model, text, tokenizer, vision

SQUARE = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def part(name: str, where: str) -> Any:
    """A class of transformers by its model's module."""
    return getattr(importlib.import_module(f"transformers.models.{where}"), name)


# ------------------------------------------------------------------ Qwen and kin
QWEN = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>", "video_token": "<|video_pad|>"}
QWEN_SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_ids(tok: Any) -> dict[str, int]:
    ids = tok.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
    }  # fmt: skip


def _qwen(
    processor: str,
    where: str,
    tok: Any,
    patch: int = 14,
    video: str = "Qwen2VLVideoProcessor",
    video_at: str = "qwen2_vl",
) -> Any:
    size = {"shortest_edge": (4 * patch) ** 2, "longest_edge": (6 * patch) ** 2}
    pictures = part("Qwen2VLImageProcessor", "qwen2_vl")(patch_size=patch, size=size)
    return part(processor, where)(
        pictures, tok, part(video, video_at)(patch_size=patch), chat_template=tok.chat_template
    )


def qwen2_vl() -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown=QWEN_SHOWN, **QWEN)
    built = model(
        "qwen2_vl", tok, **_qwen_ids(tok),
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [1, 1, 2]}),
        vision_config={"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 14, "hidden_size": 32, "mlp_ratio": 2},
    )  # fmt: skip
    return built, _qwen("Qwen2VLProcessor", "qwen2_vl", tok)


def qwen2_5_vl(**more: Any) -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown=QWEN_SHOWN, **QWEN)
    built = model(
        "qwen2_5_vl", tok, **_qwen_ids(tok),
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [1, 1, 2]}, **more),
        vision_config={"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 4, "patch_size": 14,
                       "window_size": 56, "fullatt_block_indexes": [1], "out_hidden_size": 32},
    )  # fmt: skip
    return built, _qwen("Qwen2_5_VLProcessor", "qwen2_5_vl", tok)


def _qwen3_vision() -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 4, "patch_size": 14, "out_hidden_size": 32,
            "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}  # fmt: skip


def qwen3_vl() -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown=QWEN_SHOWN, **QWEN)
    built = model(
        "qwen3_vl", tok, **_qwen_ids(tok), vision_config=_qwen3_vision(),
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [2, 1, 1]}),
    )  # fmt: skip
    return built, _qwen("Qwen3VLProcessor", "qwen3_vl", tok, video="Qwen3VLVideoProcessor", video_at="qwen3_vl")


def qwen3_vl_moe() -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown=QWEN_SHOWN, **QWEN)
    built = model(
        "qwen3_vl_moe", tok, **_qwen_ids(tok), vision_config=_qwen3_vision(),
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [2, 1, 1]}, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    )  # fmt: skip
    return built, _qwen("Qwen3VLProcessor", "qwen3_vl", tok, video="Qwen3VLVideoProcessor", video_at="qwen3_vl")


# ------------------------------------------------------------------ LLaVA and kin
def _clip() -> dict[str, Any]:
    return {"model_type": "clip_vision_model", **vision()}


def _siglip(**more: Any) -> dict[str, Any]:
    return {"model_type": "siglip_vision_model", **vision(vision_use_head=False, **more)}


def _llama(tok: Any, kind: str = "llama", **more: Any) -> dict[str, Any]:
    return {"model_type": kind, **text(tok, **more)}


def llava(kind: str = "llava", text_config: Any = None, **layers: Any) -> tuple[Any, Any]:
    tok = tokenizer()
    built = model(
        kind, tok, vision_config=_clip(), text_config=text_config or _llama(tok), image_token_index=tok.image_token_id,
        **(layers or {"vision_feature_layer": -1}),
    )  # fmt: skip
    pictures = part("CLIPImageProcessor", "clip")(**SQUARE)
    return built, part("LlavaProcessor", "llava")(
        pictures,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tok.chat_template,
    )


def vipllava() -> tuple[Any, Any]:
    return llava("vipllava", vision_feature_layers=[-1, -2])


def llava_next() -> tuple[Any, Any]:
    tok = tokenizer()
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    built = model("llava_next", tok, vision_config=_clip(), text_config=_llama(tok), image_token_index=tok.image_token_id,
                  vision_feature_layer=-1, image_grid_pinpoints=pinpoints)  # fmt: skip
    pictures = part("LlavaNextImageProcessor", "llava_next")(
        size={"shortest_edge": SIDE}, crop_size=SQUARE["crop_size"], image_grid_pinpoints=pinpoints
    )
    return built, part("LlavaNextProcessor", "llava_next")(
        pictures,
        tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tok.chat_template,
    )


def llava_onevision() -> tuple[Any, Any]:
    tok = tokenizer(video_token="<video>")
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    built = model("llava_onevision", tok, vision_config=_siglip(), text_config=_llama(tok, "qwen2"), image_token_index=tok.image_token_id,
                  video_token_index=tok.convert_tokens_to_ids("<video>"), vision_feature_layer=-1, image_grid_pinpoints=pinpoints)  # fmt: skip
    pictures = part("LlavaOnevisionImageProcessor", "llava_onevision")(
        size=SQUARE["size"], image_grid_pinpoints=pinpoints
    )
    videos = part("LlavaOnevisionVideoProcessor", "llava_onevision")(size=SQUARE["size"])
    return built, part("LlavaOnevisionProcessor", "llava_onevision")(
        pictures,
        tok,
        videos,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=tok.chat_template,
    )


def internvl() -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tok = tokenizer(image="<IMG_CONTEXT>", **named)
    built = model(
        "internvl", tok, text_config=_llama(tok, "qwen2"), image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
        vision_config={"model_type": "internvl_vision", **vision(image_size=[56, 56], patch_size=[14, 14])},
    )  # fmt: skip
    pictures = part("GotOcr2ImageProcessor", "got_ocr2")(
        size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=2
    )
    videos = part("InternVLVideoProcessor", "internvl")(size={"height": 56, "width": 56})
    return built, part("InternVLProcessor", "internvl")(
        pictures, tok, videos, image_seq_length=4, chat_template=tok.chat_template
    )


def idefics2() -> tuple[Any, Any]:
    tok = tokenizer("<end_of_utterance>", image_boundary_token="<fake_token_around_image>")
    built = model(
        "idefics2", tok, text_config=_llama(tok, "mistral", sliding_window=None), image_token_id=tok.image_token_id, vision_config=vision(),
        perceiver_config={"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 8,
                          "num_key_value_heads": 2},
    )  # fmt: skip
    pictures = part("Idefics2ImageProcessor", "idefics2")(
        size={"shortest_edge": 28, "longest_edge": 28}, do_image_splitting=False
    )
    return built, part("Idefics2Processor", "idefics2")(pictures, tok, image_seq_len=4, chat_template=tok.chat_template)


def idefics3() -> tuple[Any, Any]:
    tok = tokenizer("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    built = model(
        "idefics3",
        tok,
        text_config=_llama(tok),
        image_token_id=tok.image_token_id,
        scale_factor=1,
        vision_config=vision(),
    )
    pictures = part("Idefics3ImageProcessor", "idefics3")(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    return built, part("Idefics3Processor", "idefics3")(pictures, tok, image_seq_len=4, chat_template=tok.chat_template)


def smolvlm() -> tuple[Any, Any]:
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tok = tokenizer(**named)
    built = model(
        "smolvlm",
        tok,
        text_config=_llama(tok),
        image_token_id=tok.image_token_id,
        scale_factor=1,
        vision_config=vision(),
    )
    pictures = part("SmolVLMImageProcessor", "smolvlm")(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    videos = part("SmolVLMVideoProcessor", "smolvlm")(size={"longest_edge": 28})
    return built, part("SmolVLMProcessor", "smolvlm")(
        pictures, tok, videos, image_seq_len=4, chat_template=tok.chat_template
    )


def _pixtral_tower() -> dict[str, Any]:
    return {"model_type": "pixtral", **vision(head_dim=8, rope_parameters=dict(ROPE))}


def _pixtral_processor(tok: Any, merge: int = 1) -> Any:
    pictures = part("PixtralImageProcessor", "pixtral")(
        size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}
    )
    return part("PixtralProcessor", "pixtral")(
        pictures, tok, patch_size=14, spatial_merge_size=merge, chat_template=tok.chat_template
    )


def pixtral() -> tuple[Any, Any]:
    tok = tokenizer("[IMG_BREAK]", "[IMG_END]", image="[IMG]")
    built = model("llava", tok, vision_config=_pixtral_tower(), text_config=_llama(tok, "mistral", sliding_window=None), image_token_index=tok.image_token_id,
                  vision_feature_select_strategy="full", vision_feature_layer=-1)  # fmt: skip
    return built, _pixtral_processor(tok)


def mistral3() -> tuple[Any, Any]:
    tok = tokenizer("[IMG_BREAK]", "[IMG_END]", image="[IMG]")
    built = model("mistral3", tok, vision_config=_pixtral_tower(), text_config=_llama(tok, "mistral", sliding_window=None), image_token_index=tok.image_token_id,
                  vision_feature_layer=-1, spatial_merge_size=2)  # fmt: skip
    return built, _pixtral_processor(tok, merge=2)
