"""Tiny random checkpoints of real architectures, with a byte-level BPE tokenizer that splits tags into pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    "<|pad|>",
    "<|bos|>",
    "<|eot|>",
    "<|user|>",
    "<|assistant|>",
    "<image>",
    "<|vision_start|>",
    "<|vision_end|>",
]
TEXT = (
    "<SUMMARY> I will count the shapes. </SUMMARY>\n\n<CAPTION> a red square and a blue circle. </CAPTION>\n\n"
    "<REASONING> One and one is two. </REASONING>\n\n<CONCLUSION> 2 </CONCLUSION> How many objects are there?"
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(image: str = "<image>") -> PreTrainedTokenizerFast:
    special = [image if token == "<image>" else token for token in SPECIAL]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|eot|>", pad_token="<|pad|>",
        extra_special_tokens={"image_token": image},
    )  # fmt: skip
    fast.chat_template = TEMPLATE.replace("IMAGE", image)
    return fast


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3, **more,
    }  # fmt: skip


def mllama() -> tuple[Any, Any]:
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tok = tokenizer("<|image|>")
    image = tok.convert_tokens_to_ids("<|image|>")
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
            "intermediate_size": 48, "vision_output_dim": 96, "intermediate_layers_indices": [0, 1],
            "image_size": 28, "patch_size": 14, "max_num_tiles": 4,
        },
        text_config=_text(len(tok), num_hidden_layers=4, cross_attention_layers=[1, 3],
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        image_token_index=image,
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1] in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
                parameter.fill_(
                    1.0
                )  # fresh gates are closed: no picture would be seen, and picture tests prove nothing
    pictures = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    return model, MllamaProcessor(pictures, tok, chat_template=tok.chat_template)


def llava() -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tok = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(**_text(len(tok))),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        pictures, tok, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tok.chat_template,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tok = tokenizer()
    tok.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<end_of_utterance>"]})
    config = Idefics3Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 28, "patch_size": 14,
        },
        text_config=LlamaConfig(**_text(len(tok) + 8)),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=1,
    )  # fmt: skip
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    processor = Idefics3Processor(pictures, tok, image_seq_len=4, chat_template=tok.chat_template)
    return Idefics3ForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tok = tokenizer()
    ids = tok.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 4, "patch_size": 14,
            "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1], "out_hidden_size": 32,
        },
        text_config=_text(len(tok), rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}),
        image_token_id=ids("<image>"), vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><image><|vision_end|>")
    return Qwen2_5_VLForConditionalGeneration(config), QwenProcessor(
        Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=84 * 84), tok, template
    )


class QwenProcessor:
    """What `Qwen2_5_VLProcessor` does for pictures; that one needs torchvision for its video half."""

    def __init__(self, image_processor: Any, tok: PreTrainedTokenizerFast, chat_template: str) -> None:
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tok, chat_template

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **options)

    def __call__(
        self, text: list[str], images: Any = None, add_special_tokens: bool = True, return_tensors: str = "pt"
    ) -> Any:
        pictures = {}
        if images:
            pictures = dict(self.image_processor([i for row in images for i in row], return_tensors="pt"))
            for grid in pictures["image_grid_thw"]:
                text = [t.replace("<image>", "<|placeholder|>" * int(grid.prod() // 4), 1) for t in text]
            text = [t.replace("<|placeholder|>", "<image>") for t in text]
        batch = self.tokenizer(text, add_special_tokens=add_special_tokens, return_tensors="pt")
        kinds = (batch["input_ids"] == self.tokenizer.convert_tokens_to_ids("<image>")).int()
        return {**batch, **pictures, **({"mm_token_type_ids": kinds} if images else {})}


ARCHITECTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "mllama": mllama, "llava": llava, "qwen2.5-vl": qwen2_5_vl, "idefics3": idefics3,
}  # fmt: skip


def build(name: str) -> tuple[Any, Any]:
    """Model in eval mode and processor, the same at each call."""
    torch.manual_seed(0)
    model, processor = ARCHITECTURES[name]()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model.eval(), processor
