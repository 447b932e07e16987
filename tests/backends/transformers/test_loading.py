"""Checkpoints that cannot be used are named in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.errors import ConfigError, ModelError, PromptError
from structdecode.pocket import checkpoint_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_path(), tmp_path / "model"))


def failure(path: Path | str, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(str(path), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_not_there_or_not_a_checkpoint(tmp_path: Path) -> None:
    assert "no such directory" in failure(tmp_path / "none")
    assert "no config.json" in failure(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in failure(tmp_path)


def test_without_a_processor(checkpoint: Path) -> None:
    (checkpoint / "processor_config.json").unlink()
    assert "no processor" in failure(checkpoint)


def test_without_a_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    assert "chat_template" in failure(checkpoint)


def test_text_only_model(checkpoint: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(checkpoint)
    assert "LlamaConfig" in failure(checkpoint)


def test_pickled_weights_are_refused_unless_asked_for(checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = checkpoint / "model.safetensors"
    torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
    weights.unlink()
    assert "--allow-pickle" in failure(checkpoint)
    assert TransformersBackend.load(str(checkpoint), allow_pickle=True).model is not None


def test_code_of_its_own_is_refused_unless_asked_for(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "--trust-remote-code" in failure(checkpoint)


def test_truncated_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    failure(checkpoint)


def test_prompts_that_do_not_fit() -> None:
    backend = TransformersBackend.load(str(checkpoint_path()))
    for question, message in (("red " * 600, "context"), ("What is <|image|> that?", "refuses the prompt")):
        with pytest.raises(PromptError, match=message):
            sd.decode(sd.Prompt(question), backend=backend)


def test_device_and_dtype() -> None:
    for options in ({"device": "cuda:77"}, {"device": "toaster"}, {"dtype": "int9"}):
        with pytest.raises(ConfigError):
            TransformersBackend.load(str(checkpoint_path()), **options)
