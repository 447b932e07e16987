"""The answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from structdecode.core.protocols import StrategyTraits
from structdecode.strategies.staged import Staged


@dataclass(frozen=True)
class Direct(Staged):
    """One direct answer, greedy unless told otherwise: the baseline without reasoning."""

    default_schema: ClassVar[str] = "direct"
    traits: ClassVar[StrategyTraits] = StrategyTraits()
