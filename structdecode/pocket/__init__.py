"""The embedded model and the little world it was trained on."""

from __future__ import annotations

from pathlib import Path


def checkpoint_path() -> Path:
    """The shipped checkpoint's directory, for `TransformersBackend.load`."""
    return Path(__file__).parent / "checkpoint"


def verifier_path() -> Path:
    """The directory of a reward model for its answers: on a backbone that was trained from another seed."""
    return Path(__file__).parent / "verifier"
