"""OpenMP teams: given back by whoever hands work on."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import os, time, torch
from structdecode.backends.transformers.threads import release_openmp_threads

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
before = threads()
torch.randn(1_000_000).exp()
working = threads()
release_openmp_threads()
deadline = time.monotonic() + 10
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(working - before, threads() - before)
torch.randn(1_000_000).exp()
print(threads() - before)
"""

_AFTER_A_SEARCH = """
import os, torch
from PIL import Image
import structdecode as sd
from structdecode.backends.transformers import threads
from tests.backends.transformers import tiny

torch.set_num_threads(3)
released = []
pause = threads._pause()
threads._pause = lambda: lambda kind: (released.append(__import__("threading").current_thread().name), pause(kind))
backend = sd.TransformersBackend(*tiny.build("mllama"))
sd.decode(sd.Prompt("How many?", [Image.new("RGB", (32, 32))]), backend=backend, strategy="staged", budget=sd.Budget(tokens=9))
print("MainThread" in released, any("model" in name for name in released), len(released) >= 3)
"""


def output(program: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc, of GNU's OpenMP")
def test_a_team_is_given_back_and_comes_again() -> None:
    assert output(_PROGRAM) == ["2", "0", "2"]


def test_who_hands_work_on_gives_its_team_back() -> None:
    """The thread that asks, the one that prepared the picture, and the model's own at the end."""
    assert output(_AFTER_A_SEARCH) == ["True", "True", "True"]
