"""Asks a verifier about candidates, of a session of a real backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.types import Candidate, Prompt, Score


def ask(
    verifier: Any, prompt: Prompt, candidates: Sequence[Candidate], backend: Any, budget: Budget | None = None
) -> tuple[list[Score], Usage]:
    """Scores, and what they cost."""

    async def run() -> tuple[list[Score], Usage]:
        meter = Meter(budget or Budget())
        async with backend.open(prompt) as session, MeteredModel(session, meter, (0, "test")) as model:
            scores = await verifier.score(prompt, candidates, model)
        return list(scores), meter.parts["verifier"]

    return asyncio.run(run())


def values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]
