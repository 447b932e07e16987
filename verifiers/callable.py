"""A plain function as a verifier."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from structdecode.protocols import Model
from structdecode.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class FunctionVerifier:
    """Scores each candidate with ``function(candidate)`` or ``function(prompt, candidate)``, plain or async.

    It returns a number, a bool, a `Score`, or None for no score.
    """

    function: Callable[..., Any | Awaitable[Any]]

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        takes_prompt = len(inspect.signature(self.function).parameters) > 1
        scores = []
        for candidate in candidates:
            value = self.function(prompt, candidate) if takes_prompt else self.function(candidate)
            value = await value if inspect.isawaitable(value) else value
            scores.append(value if isinstance(value, Score) else _score(value))
        return scores


def _score(value: Any) -> Score:
    return Score.unscored("the function gave None") if value is None else Score(float(value))
