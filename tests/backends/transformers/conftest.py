from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.types import Prompt
from tests.backends.transformers import tiny, traced


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small are slower with two
    yield
    torch.set_num_threads(before)


@lru_cache
def shared_backend(name: str, engine: str) -> TransformersBackend:
    if engine == "recorded":
        return traced.recorded(name)
    return TransformersBackend(*tiny.build(name), name=name, engine=engine)  # type: ignore[arg-type]


@pytest.fixture(params=["slots", "plain", "recorded"])
def engine(request: pytest.FixtureRequest) -> str:
    """``recorded`` is the first with steps recorded and looked at in blocks, as on a GPU."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=sorted(tiny.ARCHITECTURES))
def backend(request: pytest.FixtureRequest, engine: str) -> TransformersBackend:
    """Every architecture under every engine, with nothing in its prefix cache."""
    backend = shared_backend(request.param, engine)
    backend.prefixes.clear()
    return backend


@pytest.fixture
def mllama(engine: str) -> TransformersBackend:
    backend = shared_backend("mllama", engine)
    backend.prefixes.clear()
    return backend


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    torch.manual_seed(3)
    return Image.fromarray(torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy(), "RGB")


@pytest.fixture(scope="session")
def prompt(picture: Image.Image) -> Prompt:
    return Prompt("How many objects are there?", [picture])
