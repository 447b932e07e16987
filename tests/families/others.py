"""More families whose pictures are tokens among the others: with experts, with codebooks, with queries."""

from __future__ import annotations

from typing import Any

from tests.families.ordinary import QWEN, SQUARE, _llama, _pixtral_tower, _siglip, part
from tests.families.parts import ROPE, SIDE, model, text, tokenizer, vision


def aria() -> tuple[Any, Any]:
    tok = tokenizer()
    built = model(
        "aria", tok, image_token_index=tok.image_token_id, projector_patch_to_query_dict={4: 2, 16: 4},
        vision_config={"model_type": "idefics3_vision", **vision(image_size=490, patch_size=245)},
        text_config=text(tok, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
    )  # fmt: skip
    pictures = part("AriaImageProcessor", "aria")(max_image_size=490, min_image_size=336)
    return built, part("AriaProcessor", "aria")(
        pictures, tok, size_conversion={490: 2, 980: 4}, chat_template=tok.chat_template
    )


def deepseek_vl() -> tuple[Any, Any]:
    tok = tokenizer()
    built = model(
        "deepseek_vl", tok, image_token_id=tok.image_token_id, vision_config=_siglip(), text_config=_llama(tok)
    )
    pictures = part("DeepseekVLImageProcessor", "deepseek_vl")(size=SQUARE["size"])
    return built, part("DeepseekVLProcessor", "deepseek_vl")(
        pictures, tok, num_image_tokens=4, chat_template=tok.chat_template
    )


def janus() -> tuple[Any, Any]:
    tok = tokenizer(boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    built = model(
        "janus", tok, image_token_id=tok.image_token_id, text_config=_llama(tok),
        vision_config=vision(mlp_ratio=2.0, projection_dim=32, num_image_tokens=4),
        vq_config={"embed_dim": 4, "num_embeddings": 32, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
                   "num_patches": 2, "projection_dim": 32, "image_token_embed_dim": 32},
    )  # fmt: skip
    pictures = part("JanusImageProcessor", "janus")(size=SQUARE["size"])
    return built, part("JanusProcessor", "janus")(pictures, tok, num_image_tokens=4, chat_template=tok.chat_template)


def _codebook(pieces: int) -> dict[str, str]:
    return {f"visual_{i}": f"<|visual token {i:06d}|>" for i in range(pieces)}


def emu3() -> tuple[Any, Any]:
    named = {
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    tok = tokenizer("<|extra_200|>", *_codebook(32).values(), **named)
    built = model(
        "emu3", tok, text_config=text(tok, attention_dropout=0.0),
        vocabulary_map={token: tok.convert_tokens_to_ids(token) for token in ("<image>", "<|extra_200|>", *_codebook(32).values())},
        vq_config={"codebook_size": 32, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
                   "hidden_size": 32, "attn_resolutions": [], "temporal_downsample_factor": 1},
    )  # fmt: skip
    pictures = part("Emu3ImageProcessor", "emu3")(min_pixels=32 * 32, max_pixels=64 * 64, spatial_factor=8)
    return built, part("Emu3Processor", "emu3")(pictures, tok, chat_template=tok.chat_template)


def chameleon() -> tuple[Any, Any]:
    pieces = {f"IMGIMG{a}{b}Z": "" for a in "ABCDEF" for b in "ABCDE"}
    tok = tokenizer("<racm3:break>", "<eoss>", *pieces, boi_token="<boi>", eoi_token="<eoi>", sep_token="<sep>")
    built = model(
        "chameleon", tok, **text(tok),
        vocabulary_map={token: tok.convert_tokens_to_ids(token) for token in ("<image>", *pieces)},
        vq_config={"embed_dim": 8, "num_embeddings": 30, "latent_channels": 8, "resolution": 32, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1],
                   "num_res_blocks": 1},
    )  # fmt: skip
    pictures = part("ChameleonImageProcessor", "chameleon")(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return built, part("ChameleonProcessor", "chameleon")(pictures, tok, image_seq_length=16)


def ernie4_5_vl_moe() -> tuple[Any, Any]:
    named = {"image_start_token": "<|IMAGE_START|>", "image_end_token": "<|IMAGE_END|>", "video_token": "<|VIDEO_PLACEHOLDER|>",
             "video_start_token": "<|VIDEO_START|>", "video_end_token": "<|VIDEO_END|>"}  # fmt: skip
    tok = tokenizer(image="<|IMAGE_PLACEHOLDER|>", shown="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>", **named)
    ids = {f"{name}_id": tok.convert_tokens_to_ids(token) for name, token in named.items()}
    built = model(
        "ernie4_5_vl_moe", tok, image_token_id=tok.image_token_id, **ids,
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48},
        text_config=text(tok, moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_intermediate_size=[32, 32],
                         mlp_layer_types=["dense", "sparse", "sparse"], rope_parameters={**ROPE, "mrope_section": [1, 1, 2]}),
    )  # fmt: skip
    pictures = part("Ernie4_5_VLMoeImageProcessor", "ernie4_5_vl_moe")(
        size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
    )
    videos = part("Ernie4_5_VLMoeVideoProcessor", "ernie4_5_vl_moe")(draw_on_frames=False)
    return built, part("Ernie4_5_VLMoeProcessor", "ernie4_5_vl_moe")(
        pictures, tok, videos, chat_template=tok.chat_template
    )


def _glm4v(kind: str, **more: Any) -> tuple[Any, Any]:
    named = {"video_token": "<|video|>", "image_start_token": "<|begin_of_image|>", "image_end_token": "<|end_of_image|>",
             "video_start_token": "<|begin_of_video|>", "video_end_token": "<|end_of_video|>"}  # fmt: skip
    tok = tokenizer(image="<|image|>", shown="<|begin_of_image|><|image|><|end_of_image|>", **named)
    ids = {f"{name}_id": tok.convert_tokens_to_ids(token) for name, token in named.items()}
    built = model(
        kind, tok, image_token_id=tok.image_token_id, **ids,
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 4, "image_size": 56, "intermediate_size": 48, "out_hidden_size": 32},
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}, **more),
    )  # fmt: skip
    pictures = part("Glm4vImageProcessor", "glm4v")(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84})
    videos = part("Glm4vVideoProcessor", "glm4v")()
    return built, part("Glm4vProcessor", "glm4v")(pictures, tok, videos, chat_template=tok.chat_template)


def glm4v() -> tuple[Any, Any]:
    return _glm4v("glm4v")


def glm4v_moe() -> tuple[Any, Any]:
    return _glm4v("glm4v_moe", n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32,
                  first_k_dense_replace=1)  # fmt: skip


def lighton_ocr() -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>")
    built = model(
        "lighton_ocr",
        tok,
        image_token_id=tok.image_token_id,
        vision_config=_pixtral_tower(),
        text_config=_llama(tok, "qwen3"),
    )
    pictures = part("PixtralImageProcessor", "pixtral")(
        size={"longest_edge": 56}, patch_size={"height": 28, "width": 28}
    )
    return built, part("LightOnOcrProcessor", "lighton_ocr")(
        pictures, tok, patch_size=14, spatial_merge_size=2, chat_template=tok.chat_template
    )


def minicpmv4_6() -> tuple[Any, Any]:
    names = ("image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end")
    tok = tokenizer(
        image="<|image_pad|>", video_token="<|video_pad|>", **{f"{name}_token": f"<|{name}|>" for name in names}
    )
    built = model(
        "minicpmv4_6", tok, image_token_id=tok.image_token_id, video_token_id=tok.convert_tokens_to_ids("<|video_pad|>"), insert_layer_id=1,
        image_size=112, vision_config=vision(image_size=112, patch_size=14, insert_layer_id=1), text_config=_llama(tok, "qwen2"),
    )  # fmt: skip
    pictures = part("MiniCPMV4_6ImageProcessor", "minicpmv4_6")(scale_resolution=112, max_slice_nums=1, patch_size=14)
    videos = part("MiniCPMV4_6VideoProcessor", "minicpmv4_6")()
    return built, part("MiniCPMV4_6Processor", "minicpmv4_6")(pictures, videos, tok, chat_template=tok.chat_template)


def molmo2() -> tuple[Any, Any]:
    special = [
        "<im_patch>",
        "<im_col>",
        "<im_start>",
        "<low_res_im_start>",
        "<frame_start>",
        "<im_end>",
        "<frame_end>",
        "<im_low>",
    ]
    tok = tokenizer(*special, image="<|image|>", video_token="<|video|>")
    ids = tok.convert_tokens_to_ids
    built = model(
        "molmo2", tok, image_start_token_id=ids("<im_start>"), low_res_image_start_token_id=ids("<low_res_im_start>"), image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"), frame_start_token_id=ids("<frame_start>"), frame_end_token_id=ids("<frame_end>"),
        image_col_id=ids("<im_col>"), image_low_res_id=ids("<im_low>"),
        vision_config={**vision(image_size=[56, 56], num_key_value_heads=4, head_dim=8), "num_position_embeddings": 16},
        adapter_config={"vision_feature_layer": [-1, -2], "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
                        "intermediate_size": 48, "text_hidden_size": 32},
        text_config=text(tok, vocab_size=len(tok), additional_vocab_size=16),
    )  # fmt: skip
    pictures = part("Molmo2ImageProcessor", "molmo2")(
        size={"height": 56, "width": 56}, max_crops=2, overlap_margins=[1, 1]
    )
    videos = part("Molmo2VideoProcessor", "molmo2")(size={"height": 56, "width": 56})
    return built, part("Molmo2Processor", "molmo2")(pictures, videos, tok, chat_template=tok.chat_template)


def ovis2() -> tuple[Any, Any]:
    special = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tok = tokenizer("<IMG_ATOM>", *special)
    ids = tok.convert_tokens_to_ids
    built = model(
        "ovis2", tok, image_token_id=ids("<IMG_ATOM>"), visual_indicator_token_ids=ids(special), vocab_size=len(tok), hidden_size=32,
        vision_config=vision(hidden_stride=1, vocab_size=64), text_config=_llama(tok, "qwen2"),
    )  # fmt: skip
    pictures = part("Ovis2ImageProcessor", "ovis2")(size=SQUARE["size"], crop_to_patches=False)
    return built, part("Ovis2Processor", "ovis2")(pictures, tok, image_seq_length=4, chat_template=tok.chat_template)


def paddleocr_vl() -> tuple[Any, Any]:
    tok = tokenizer("<|VIDEO_PLACEHOLDER|>", image="<|IMAGE_PLACEHOLDER|>", shown="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
                    image_start="<|IMAGE_START|>", image_end="<|IMAGE_END|>")  # fmt: skip
    ids = tok.convert_tokens_to_ids
    built = model(
        "paddleocr_vl", tok, image_token_id=tok.image_token_id, video_token_id=ids("<|VIDEO_PLACEHOLDER|>"),
        vision_start_token_id=ids("<|IMAGE_START|>"), vision_end_token_id=ids("<|IMAGE_END|>"), vision_config=vision(image_size=56),
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [1, 1, 2]}),
    )  # fmt: skip
    pictures = part("PaddleOCRVLImageProcessor", "paddleocr_vl")(
        size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
    )
    return built, part("PaddleOCRVLProcessor", "paddleocr_vl")(pictures, tok, chat_template=tok.chat_template)


def qwen2_5_omni() -> tuple[Any, Any]:
    named = {"image_token": "<|IMAGE|>", "video_token": "<|VIDEO|>", "audio_token": "<|AUDIO|>", "vision_bos_token": "<|vision_bos|>",
             "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}  # fmt: skip
    tok = tokenizer(image=named.pop("image_token"), shown="<|vision_bos|><|IMAGE|><|vision_eos|>", **named)
    ids = tok.convert_tokens_to_ids
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    built = model(
        "qwen2_5_omni_thinker", tok, image_token_id=ids("<|IMAGE|>"), video_token_id=ids("<|VIDEO|>"), audio_token_id=ids("<|AUDIO|>"),
        image_token_index=ids("<|IMAGE|>"), video_token_index=ids("<|VIDEO|>"), audio_token_index=ids("<|AUDIO|>"),
        vision_start_token_id=ids("<|vision_bos|>"), vision_end_token_id=ids("<|vision_eos|>"), audio_start_token_id=ids("<|audio_bos|>"),
        audio_end_token_id=ids("<|audio_eos|>"), user_token_id=ids("<|user|>"), vision_config=tower,
        audio_config={"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "output_dim": 32, "num_mel_bins": 16},
        text_config=text(tok, rope_parameters={**ROPE, "mrope_section": [1, 1, 2]}),
    )  # fmt: skip
    pictures = part("Qwen2VLImageProcessor", "qwen2_vl")(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84})
    videos = part("Qwen2VLVideoProcessor", "qwen2_vl")()
    audio = part("WhisperFeatureExtractor", "whisper")(feature_size=16)
    return built, part("Qwen2_5OmniProcessor", "qwen2_5_omni")(
        pictures, videos, audio, tok, chat_template=tok.chat_template
    )


def video_llama_3() -> tuple[Any, Any]:
    tok = tokenizer(image="<|image_pad|>", shown="<|vision_start|><|image_pad|><|vision_end|>", **QWEN)
    built = model(
        "video_llama_3", tok, image_token_id=tok.image_token_id, video_token_id=tok.convert_tokens_to_ids("<|video_pad|>"), vision_config=vision(),
        text_config=_llama(tok, "qwen2"),
    )  # fmt: skip
    pictures = part("VideoLlama3ImageProcessor", "video_llama_3")(
        size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}, merge_size=1
    )
    videos = part("VideoLlama3VideoProcessor", "video_llama_3")()
    return built, part("VideoLlama3Processor", "video_llama_3")(pictures, tok, videos, chat_template=tok.chat_template)


def mllama() -> tuple[Any, Any]:
    import torch

    tok = tokenizer(image="<|image|>")
    built = model(
        "mllama", tok, image_token_index=tok.image_token_id,
        vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4, "intermediate_size": 48,
                       "vision_output_dim": 96, "intermediate_layers_indices": [0, 1], "image_size": SIDE, "patch_size": 14, "max_num_tiles": 4},
        text_config=text(tok, num_hidden_layers=4, cross_attention_layers=[1, 3]),
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
                parameter.fill_(1.0)  # fresh gates are closed: no picture would be seen
    pictures = part("MllamaImageProcessor", "mllama")(size=SQUARE["size"], max_image_tiles=4)
    return built, part("MllamaProcessor", "mllama")(pictures, tok, chat_template=tok.chat_template)


def blip2() -> tuple[Any, Any]:
    tok = tokenizer()
    built = model(
        "blip-2", tok, image_token_index=tok.image_token_id, num_query_tokens=4, image_text_hidden_size=32, vision_config=vision(),
        qformer_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "encoder_hidden_size": 32, "vocab_size": len(tok)},
        text_config={"model_type": "opt", **text(tok, ffn_dim=48, word_embed_proj_dim=32)},
    )  # fmt: skip
    pictures = part("BlipImageProcessor", "blip")(size=SQUARE["size"])
    processor = part("Blip2Processor", "blip_2")(pictures, tok, num_query_tokens=4)
    return built, processor


def florence2() -> tuple[Any, Any]:
    tok = tokenizer()
    built = model(
        "florence2", tok, image_token_id=tok.image_token_id, projection_dim=32,
        vision_config={"embed_dim": [16, 32], "num_heads": [2, 4], "num_groups": [2, 4], "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2],
                       "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32, "max_position_embeddings": 50},
        text_config={"model_type": "bart", "vocab_size": len(tok), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                     "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 512, "bos_token_id": 1,
                     "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2, "init_std": 0.3},
    )  # fmt: skip
    pictures = part("CLIPImageProcessor", "clip")(size={"height": 64, "width": 64}, do_center_crop=False)
    return built, part("Florence2Processor", "florence2")(pictures, tok)


def idefics() -> tuple[Any, Any]:
    tok = tokenizer("<fake_token_around_image>")
    built = model(
        "idefics", tok, **text(tok), additional_vocab_size=0, cross_layer_interval=1, alpha_initializer="ones", alpha_type="vector",
        use_resampler=False, tie_word_embeddings=False,
        vision_config={"embed_dim": 32, "image_size": SIDE, "intermediate_size": 48, "patch_size": 14, "num_hidden_layers": 2, "num_attention_heads": 4},
    )  # fmt: skip
    pictures = part("IdeficsImageProcessor", "idefics")(image_size=SIDE)
    return built, part("IdeficsProcessor", "idefics")(pictures, tok)


def kosmos2() -> tuple[Any, Any]:
    tok = tokenizer(
        "</image>", "<phrase>", "</phrase>", "<grounding>", "<object>", "</object>", "</delimiter_of_multi_objects/>"
    )
    built = model(
        "kosmos-2", tok, latent_query_num=4, vision_config=vision(),
        text_config={"vocab_size": len(tok) + 8, "max_position_embeddings": 512, "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4, "init_std": 0.3,
                     "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "dropout": 0.0},
    )  # fmt: skip
    pictures = part("CLIPImageProcessor", "clip")(**SQUARE)
    return built, part("Kosmos2Processor", "kosmos2")(pictures, tok, num_patch_index_tokens=4)


def got_ocr2() -> tuple[Any, Any]:
    tok = tokenizer("<img>", "</img>", image="<imgpad>")
    built = model(
        "got_ocr2", tok, image_token_index=tok.image_token_id, image_seq_length=4, text_config=_llama(tok, "qwen2"),
        vision_config={**vision(image_size=128, patch_size=16), "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 48},
    )  # fmt: skip
    pictures = part("GotOcr2ImageProcessor", "got_ocr2")(size={"height": 128, "width": 128})
    return built, part("GotOcr2Processor", "got_ocr2")(pictures, tok, chat_template=tok.chat_template)
