"""The embedded model and the little world it was trained on."""

from __future__ import annotations

from pathlib import Path


def checkpoint_path() -> Path:
    """The shipped checkpoint's directory, for `TransformersBackend.load`."""
    return Path(__file__).parent / "checkpoint"
