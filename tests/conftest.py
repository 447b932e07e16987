from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True)  # the same examples every time
settings.register_profile("random")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a network
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is inherited by what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt processes of their own


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Models here are so small that a second thread only costs."""
    import torch

    torch.set_num_threads(1)
