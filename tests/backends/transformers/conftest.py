from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.types import Prompt
from tests.backends.transformers import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small are slower with two
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=sorted(tiny.ARCHITECTURES))
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    return TransformersBackend(*tiny.build(request.param), name=request.param)


@pytest.fixture(scope="session")
def mllama() -> TransformersBackend:
    return TransformersBackend(*tiny.build("mllama"), name="mllama")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    torch.manual_seed(3)
    return Image.fromarray(torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy(), "RGB")


@pytest.fixture(scope="session")
def prompt(picture: Image.Image) -> Prompt:
    return Prompt("How many objects are there?", [picture])
