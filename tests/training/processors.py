"""The tiny processors with the chat templates of the models they stand for, and Qwen2.5-VL's own batching."""

from __future__ import annotations

from typing import Any

from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from structdecode.backends.transformers.chat import Message
from tests.backends.transformers import tiny

LLAMA_3_2 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}{%- endfor %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><image><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_1_5 = (
    "{% for message in messages %}{{ message['role'].upper() + ': '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS_3 = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TRIMMED = (  # not a model's own: templates that trim texts, and end only the last turn
    "{% for message in messages %}[{{ message['role'] }}] {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% else %}{{ eos_token }}{% endif %}"
)
STYLES = {
    "mllama": ("mllama", LLAMA_3_2), "llava": ("llava", LLAVA_1_5), "qwen2.5-vl": ("qwen2.5-vl", QWEN),
    "idefics3": ("idefics3", IDEFICS_3), "trimmed": ("llava", TRIMMED),
}  # fmt: skip
CONTROL = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>")


class PictureQwenProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """The real one without its video half, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token = tokenizer.image_token
        self.image_token_id = tokenizer.image_token_id
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names, "mm_token_type_ids"]


def build(name: str) -> tuple[Any, Any]:
    """Model and processor of `tiny`, with a processor that makes batches."""
    model, processor = tiny.build(name)
    if isinstance(processor, tiny.QwenProcessor):
        processor = PictureQwenProcessor(processor.image_processor, processor.tokenizer, processor.chat_template)
    return model, processor


def styled(style: str) -> Any:
    """A tiny processor with a real model's chat template, whose control tokens its tokenizer knows."""
    name, template = STYLES[style]
    processor = build(name)[1]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    processor.chat_template = template
    return processor


def chat(*texts: str, images: int = 0) -> list[Message]:
    """User, assistant, user, ...; pictures in the first turn."""
    return [
        {
            "role": "assistant" if n % 2 else "user",
            "content": [*([] if n else [{"type": "image"}] * images), {"type": "text", "text": text}],
        }
        for n, text in enumerate(texts)
    ]
