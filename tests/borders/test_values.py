"""Settings from Python are held to what a command line is held to; a backend ends, and says where it cannot be used."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import structdecode as sd
from structdecode import registry
from structdecode.backends.transformers import TransformersBackend
from structdecode.budget import Budget
from structdecode.errors import ConfigError, ModelError
from structdecode.pocket import checkpoint_path
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.self_consistency import SelfConsistency
from structdecode.strategies.sentence_beam import SentenceBeam
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import check_verifier

WRONG: list[tuple[Any, dict[str, Any]]] = [
    (kind, {field: value})
    for kind, field in ((BestOfN, "n"), (SelfConsistency, "n"), (StageBeam, "candidates"), (StageBeam, "beams"), (SentenceBeam, "candidates"))
    for value in (4.5, "4", True, None, 0, -1, float("nan"), [4], 4.0)
] + [
    (kind, {field: value})
    for kind in (BestOfN, StageBeam)
    for field, values in {
        "temperature": (float("nan"), float("inf"), -1, "1", [1], True), "top_p": (0, 2, float("nan"), "x"), "top_k": (-1, 1.5, "x"),
        "max_tokens": (0, -1, 1.5, float("inf"), "x"),
    }.items() for value in values
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), WRONG)
def test_settings_from_python_are_checked(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        kind(**settings)


def test_settings_of_a_function_are_not_dropped() -> None:
    with pytest.raises(ConfigError, match="weight"):
        registry.verifier_from(len, {"weight": 2})


def test_a_verifier_is_checked_on_a_prompt_of_ones_own() -> None:
    seen = []

    def function(prompt: sd.Prompt, candidate: sd.Candidate) -> float:
        seen.append(prompt.question)
        return 1.0

    check_verifier(registry.build("verifiers", "callable", {"function": function}), prompt=sd.Prompt("Mine?"))
    assert set(seen) == {"Mine?"}


def test_a_closed_backend_leaves_no_thread_and_says_so() -> None:
    before = {t.name for t in threading.enumerate() if t.name.startswith("structdecode-model")}
    with TransformersBackend.load(checkpoint_path(), device="cpu", check=False) as backend:
        assert sd.decode(sd.Prompt("How many?"), backend=backend, budget=Budget(tokens=3)).best is not None
    left = {t.name for t in threading.enumerate() if t.name.startswith("structdecode-model")}
    assert len(left) <= len(before)
    with pytest.raises(ModelError, match="closed"):
        sd.decode(sd.Prompt("How many?"), backend=backend)


def test_a_child_that_was_forked_is_told() -> None:
    backend = TransformersBackend.load(checkpoint_path(), device="cpu", check=False)
    sd.decode(sd.Prompt("How many?"), backend=backend, budget=Budget(tokens=3))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            backend.open(sd.Prompt("How many?"))
            os.write(write, b"opened")
        except ModelError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"spawn" in os.read(read, 1000)
