"""Sampling that a strategy may set over a stage's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from structdecode.core.settings import check_settings
from structdecode.core.types import Sampling, Stage


@dataclass(frozen=True, kw_only=True)
class SamplingOverrides:
    """Fields that every strategy has; None leaves what the stage says.

    Attributes:
        temperature: 0 is greedy. top_p, top_k: filters as in transformers. max_tokens: the most a stage may have.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        self.sampling(Stage("any"))  # raises ConfigError for a value out of range, before anything is decoded

    def sampling(self, stage: Stage) -> Sampling:
        names = ("temperature", "top_p", "top_k", "max_tokens")
        return replace(stage.sampling, **{n: v for n in names if (v := getattr(self, n)) is not None})
