"""Untagged chain of thought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from structdecode.core.protocols import StrategyTraits
from structdecode.strategies.staged import Staged


@dataclass(frozen=True)
class ChainOfThought(Staged):
    """One chain of thought without stages, greedy unless told otherwise (Kojima et al. 2022, arXiv 2205.11916)."""

    default_schema: ClassVar[str] = "cot"
    traits: ClassVar[StrategyTraits] = StrategyTraits()
