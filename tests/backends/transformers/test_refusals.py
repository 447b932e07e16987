"""Architectures that cannot be decoded are refused when the backend is made, in one line that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.refusals import why_not
from structdecode.core.errors import ModelError
from tests.backends.transformers import tiny

REFUSED = {
    "blip-2": "encoder-decoder", "instructblip": "encoder-decoder", "florence2": "encoder-decoder",
    "pix2struct": "encoder-decoder", "kosmos-2": "every token", "idefics": "every token", "blip": "no key-value cache",
}  # fmt: skip
DECODED = (
    "aria", "chameleon", "cohere2_vision", "deepseek_vl", "emu3", "gemma3", "gemma4", "glm4v", "idefics3", "internvl",
    "janus", "kimi_k25", "lfm2_vl", "llama4", "llava", "minicpmv4_6", "mistral3", "mllama", "molmo2", "paligemma",
    "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_5", "smolvlm", "video_llama_3",
)  # fmt: skip


def model_class(kind: str) -> Any:
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind]
    return getattr(transformers, name if isinstance(name, str) else name[0])


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
def test_what_cannot_be_decoded_is_refused_with_the_reason(kind: str, check: bool) -> None:
    wanted = model_class(kind)
    with torch.device("meta"):
        model = wanted(_shrunken(wanted.config_class))
    with pytest.raises(ModelError) as caught:
        TransformersBackend(model, tiny.build("llava")[1], kind, check=check)
    message = str(caught.value)
    assert "\n" not in message
    for said in (kind, wanted.__name__, REFUSED[kind], "LLaVA"):
        assert said in message


@pytest.mark.parametrize("kind", DECODED)
def test_nothing_else_is(kind: str) -> None:
    assert why_not(model_class(kind)) == ""


def test_a_forward_that_passes_on_what_it_is_given_takes_what_its_parent_takes() -> None:
    class Wrapped(transformers.LlavaForConditionalGeneration):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    assert why_not(Wrapped) == ""


def _shrunken(config_class: Any) -> Any:
    """The class's own defaults with a layer or two: only what the model is matters here, not its weights."""
    config = config_class()
    for part in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config", "qformer_config"))):
        for setting in ("num_hidden_layers", "layers", "num_layers"):
            if isinstance(getattr(part, setting, None), int):
                setattr(part, setting, 1)
    return config
