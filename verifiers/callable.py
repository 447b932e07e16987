"""A plain function as a verifier."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from structdecode.core.border import in_thread, number
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class FunctionVerifier:
    """Scores each candidate with ``function(candidate)`` or ``function(prompt, candidate)``, plain or async.

    It returns a number, a bool, a `Score`, or None for no score. A plain one is called in a thread, so that other
    questions go on meanwhile: it may be called for several at once.
    """

    function: Callable[..., Any | Awaitable[Any]]

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        takes_prompt = len(inspect.signature(self.function).parameters) > 1
        scores = []
        for candidate in candidates:
            call = partial(self.function, prompt, candidate) if takes_prompt else partial(self.function, candidate)
            value = call() if inspect.iscoroutinefunction(self.function) else await in_thread(call)
            value = await value if inspect.isawaitable(value) else value
            scores.append(value if isinstance(value, Score) else _score(value))
        return scores


def _score(value: Any) -> Score:
    return Score.unscored("the function gave None") if value is None else Score(number(value))
