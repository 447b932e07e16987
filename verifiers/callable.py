"""A plain function as a verifier."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from structdecode.core.border import ForeignValueError, in_thread, number
from structdecode.core.protocols import Model
from structdecode.core.reading import short_repr
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class FunctionVerifier:
    """Scores each candidate with ``function(candidate)`` or ``function(prompt, candidate)``, plain or async.

    It returns a number, a bool, a `Score`, ``{"score": number or None, "reason": text, ...}`` (what else is in it goes to the
    details), or None for no score. A plain one is called in a thread, so that other
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
            scores.append(read_score(value))
        return scores


def read_score(value: Any) -> Score:
    """What a function or a program gave as a score.

    Raises:
        ForeignValueError: it is none of the forms that `FunctionVerifier` names, or its number is not finite.
    """
    if isinstance(value, Score):
        return value
    if not isinstance(value, Mapping):
        return Score.unscored("it gave None") if value is None else Score(number(value))
    if "score" not in value:
        raise ForeignValueError(f"{short_repr(value, 80)} has no 'score'")
    found, reason = value["score"], str(value.get("reason") or "")
    details = {name: item for name, item in value.items() if name not in ("score", "reason")}
    return Score(None if found is None else number(found), reason or "it gave None" * (found is None), details)
