"""A third-party verifier, whole: `pip install` this folder and `structdecode list verifiers` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from structdecode.core.protocols import Model
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Shortest:
    """Prefers answers with fewer words, down to a minimum.

    Attributes:
        enough: words below which shorter is no better.
    """

    enough: int = 3

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        words = [len(" ".join(candidate.stages.values()).split()) for candidate in candidates]
        return [Score(-float(max(count, self.enough)), f"{count} words") for count in words]
