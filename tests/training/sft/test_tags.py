"""Stage tags as tokens of their own: one token each, nothing else changed, and the same after saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from structdecode.core.schemas import LLAVA_O1
from structdecode.training.sft.tags import add_tags
from tests.training import processors

TAGS = [tag for stage in LLAVA_O1.stages for tag in (stage.begin, stage.end)]


@pytest.mark.parametrize("name", ["mllama", "llava", "qwen2.5-vl", "idefics3"])
def test_tags_become_tokens_and_the_model_is_otherwise_the_same(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model, processor = processors.build(name)
    model.to(torch.float32).eval()
    chat = processors.chat("How many?", "red 2", images=1)
    text = processor.apply_chat_template(chat, tokenize=False)
    inputs = processor(text=[text], images=[[Image.new("RGB", (40, 60), (90, 9, 9))]], return_tensors="pt")
    before = processor.tokenizer(TAGS, add_special_tokens=False)["input_ids"]
    assert all(len(ids) > 1 for ids in before)
    with torch.inference_mode():
        expected = model(**inputs).logits
    old = model.get_input_embeddings().weight.detach().clone()
    more = model.get_input_embeddings().num_embeddings - model.get_output_embeddings().out_features

    assert add_tags(model, processor, LLAVA_O1) == TAGS
    ids = processor.tokenizer(TAGS, add_special_tokens=False)["input_ids"]
    assert all(len(one) == 1 for one in ids)
    assert processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "<SUMMARY>"
    assert model.get_input_embeddings().num_embeddings - model.get_output_embeddings().out_features == max(more, 0)
    assert max(one[0] for one in ids) < model.get_output_embeddings().out_features
    row = model.get_input_embeddings().weight[ids[0][0]]
    assert torch.allclose(row, old[before[0]].mean(dim=0))
    with torch.inference_mode():
        found = model(**inputs).logits
    assert torch.allclose(found[..., : expected.shape[-1] - 8], expected[..., :-8], atol=1e-5)
    assert add_tags(model, processor, LLAVA_O1) == []  # once is enough

    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.equal(again(**inputs).logits, found)
    assert AutoTokenizer.from_pretrained(tmp_path)(TAGS, add_special_tokens=False)["input_ids"] == ids
