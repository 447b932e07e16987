from __future__ import annotations

import pytest
import torch
from PIL import Image

from structdecode.core.types import Prompt


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    torch.manual_seed(3)
    return Image.fromarray(torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy(), "RGB")


@pytest.fixture(scope="session")
def prompt(picture: Image.Image) -> Prompt:
    return Prompt("How many objects are there?", [picture])
