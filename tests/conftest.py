from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a network


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Models here are so small that a second thread only costs."""
    import torch

    torch.set_num_threads(1)
