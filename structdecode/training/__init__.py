"""From a question-answering set to a staged model: data, fine-tuning, and search as a source of both."""

from __future__ import annotations

from typing import Any

__all__ = ["answer_reward", "as_reward", "format_reward"]


def __getattr__(name: str) -> Any:
    """The rewards, loaded when first asked for: the command line imports this package."""
    if name in __all__:
        from structdecode.training import rewards

        return getattr(rewards, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
