"""A plain function as a verifier."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from structdecode.errors import ConfigError
from structdecode.protocols import Model
from structdecode.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class FunctionVerifier:
    """Scores each candidate with ``function(candidate)`` or ``function(prompt, candidate)``, plain or async.

    It returns a number, a bool, a `Score`, or None for no score. Parameters with a default stay at it.

    Raises:
        ConfigError: the function needs more than these two.
    """

    function: Callable[..., Any | Awaitable[Any]]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"callable: {self.function!r} is not a function")
        if self._needs > 2:
            raise ConfigError(
                f"callable: the function needs {self._needs} arguments; it gets (candidate) or (prompt, candidate)"
            )

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        takes_prompt, scores = self._needs == 2, []
        for candidate in candidates:
            value = self.function(prompt, candidate) if takes_prompt else self.function(candidate)
            value = await value if inspect.isawaitable(value) else value
            scores.append(value if isinstance(value, Score) else _score(value))
        return scores

    @property
    def _needs(self) -> int:
        """How many arguments have to be given; 1 for a built-in that does not say."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:
            return 1
        return sum(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _score(value: Any) -> Score:
    if value is None:
        return Score.unscored("the function gave None")
    number = float(value)
    return Score(number) if math.isfinite(number) else Score.unscored(f"the function gave {number}")
