"""Half of transformers' processors need torchvision: it may be missing, or fit this build of torch only in half."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from structdecode.backends.transformers.loading import load_processor
from structdecode.core.torchvision_import import WithoutOperators
from structdecode.pocket import checkpoint_path
from tests.backends.transformers import tiny

WITHOUT_TORCHVISION = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torchvision" else found(name, *rest)
from structdecode.backends.transformers.loading import load_processor
from structdecode.core.errors import ModelError
try:
    load_processor(sys.argv[1])
except ModelError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processor with a video half, which knows no other way than torchvision."""
    directory = tmp_path_factory.mktemp("qwen")
    model, processor = tiny.build("qwen2.5-vl")
    for part in (model.config, processor.image_processor, processor.tokenizer):
        part.save_pretrained(directory)
    config = json.loads((directory / "preprocessor_config.json").read_text())
    config["processor_class"] = "Qwen2_5_VLProcessor"
    (directory / "preprocessor_config.json").write_text(json.dumps(config))
    return directory


def test_it_can_be_imported_whatever_torch_it_sits_beside() -> None:
    pytest.importorskip("torchvision")
    from torchvision.transforms.v2 import functional

    assert callable(functional.resize)


def test_missing_it_is_one_line_that_names_the_extra(qwen: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCHVISION, qwen], capture_output=True, text=True)
    expected = f"model '{qwen}': its processor needs torchvision: pip install 'structdecode[vision]'\n"
    assert done.stdout == expected, done.stderr


def test_pictures_are_prepared_the_same_with_and_without_it(qwen: Path) -> None:
    assert type(load_processor(checkpoint_path()).image_processor).__name__.endswith("Pil")
    pytest.importorskip("torchvision")
    assert type(load_processor(qwen).image_processor).__name__ == "Qwen2VLImageProcessorPil"


@pytest.mark.parametrize("name, operators, empty", [
    ("torchvision._meta_registrations", False, True),
    ("torchvision._meta_registrations", True, False),
    ("torchvision.ops", False, False),
])  # fmt: skip
def test_only_what_describes_missing_operators_is_left_out(
    name: str, operators: bool, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = ModuleType("torchvision.extension")
    extension._has_ops = lambda: operators  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.extension", extension)
    assert (WithoutOperators().find_spec(name, None) is not None) == empty
