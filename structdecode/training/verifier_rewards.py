"""The border between a verifier and training: whatever a verifier does, one finite reward or None a completion comes back."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from structdecode.core import registry
from structdecode.core.asking import MeteredModel
from structdecode.core.border import (
    ForeignValueError,
    GivenUpError,
    checked_score,
    is_list,
    said,
    scores_of,
)
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.errors import BudgetSpent, ConfigError, NoModelError
from structdecode.core.lifetimes import lifetimes
from structdecode.core.protocols import Backend, Verifier
from structdecode.core.types import Prompt, Schema, Score, twins
from structdecode.training.rollouts import Rollout, read_rollouts

Rewards = list[float | None]

_log = logging.getLogger(__name__)


@dataclass
class VerifierReward:
    """`as_reward`'s function. TRL takes its metric's name from ``__name__``."""

    verifier: Verifier
    backend: Backend | None
    schema: Schema
    name: str
    malformed: float | None
    timeout: float | None
    budget: Budget
    seed: int
    _rewarded: bool = field(default=False, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.__name__ = self.name

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Any = None,
        *,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> Rewards:
        """One reward a completion, in order; None where there is no score."""
        rollouts = read_rollouts(prompts, completions, columns, self.schema)
        groups: dict[tuple[Any, ...], list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            groups[rollout.group].append(rollout)
        step = str(getattr(trainer_state, "global_step", 0))
        async with lifetimes():
            scored = await asyncio.gather(*(self._group(group, step) for group in groups.values()))
        self._rewarded = True
        outcomes: dict[int, _Outcome] = {}
        for group, (found, _) in zip(groups.values(), scored, strict=True):
            outcomes.update({rollout.row: outcome for rollout, outcome in zip(group, found, strict=True)})
        ordered = [outcomes[row] for row in range(len(rollouts))]
        self._report(ordered, sum((used for _, used in scored), Usage()), log_extra, log_metric)
        return [self._value(rollout, outcome) for rollout, outcome in zip(rollouts, ordered, strict=True)]

    def _value(self, rollout: Rollout, outcome: _Outcome) -> float | None:
        if self.malformed is not None and not rollout.well_formed:
            return self.malformed
        return outcome.score.value

    async def _group(self, group: list[Rollout], step: str) -> tuple[list[_Outcome], Usage]:
        prompt = group[0].prompt
        if prompt is None:
            return [_failed(rollout.problem) for rollout in group], Usage()
        meter = Meter(self.budget)
        try:
            scores = await self._ask(prompt, group, meter, step)
        except NoModelError:
            needs = "this verifier asks a model: give as_reward a backend"
            if not self._rewarded:
                raise ConfigError(needs) from None
            outcomes = [_failed(needs)] * len(group)
        except BudgetSpent as spent:
            outcomes = [_Outcome(Score.unscored(f"budget spent: {spent.limit}"))] * len(group)
        except GivenUpError:
            outcomes = [_failed(f"no score within {self.timeout} s")] * len(group)
        except Exception as error:
            outcomes = [_failed(said(error))] * len(group)
        else:
            outcomes = _checked(scores, len(group))
        return outcomes, meter.parts["verifier"]

    async def _ask(self, prompt: Prompt, group: list[Rollout], meter: Meter, step: str) -> Any:
        """Completions of equal content are scored once."""
        async with lifetimes() as verifiers:
            await verifiers.enter(self.verifier)
        groups = twins([rollout.candidate for rollout in group])
        candidates = [group[indices[0]].candidate for indices in groups]
        opened = nullcontext() if self.backend is None else self.backend.open(group[0].schema.ask(prompt))
        async with opened as session, MeteredModel(session, meter, (self.seed, step)) as model:
            scores = await scores_of(self.verifier, prompt, candidates, model, self.timeout)
        if not is_list(scores) or len(scores) != len(candidates):
            return scores  # the caller says what is wrong with it
        of = {index: score for indices, score in zip(groups, scores, strict=True) for index in indices}
        return [of[index] for index in range(len(group))]

    def _report(
        self,
        outcomes: list[_Outcome],
        used: Usage,
        log_extra: Callable[[str, list[Any]], None] | None,
        log_metric: Callable[[str, float], None] | None,
    ) -> None:
        for error in {outcome.score.reason for outcome in outcomes if outcome.failed} - self._told:
            self._told.add(error)
            _log.warning("reward %s: %s (reported once)", self.name, error)
        if log_metric is not None:
            total = max(len(outcomes), 1)
            log_metric(f"rewards/{self.name}/unscored", sum(not o.score.scored for o in outcomes) / total)
            log_metric(f"rewards/{self.name}/failed", sum(o.failed for o in outcomes) / total)
            if self.backend is not None or used.model_calls:
                log_metric(f"rewards/{self.name}/generated_tokens", float(used.generated_tokens))
                log_metric(f"rewards/{self.name}/prefilled_tokens", float(used.prefilled_tokens))
            for name, amount in used.outside.items():
                log_metric(f"rewards/{self.name}/{name}", float(amount))
        if log_extra is not None:
            log_extra(f"{self.name}/reason", [outcome.score.reason for outcome in outcomes])


@dataclass(frozen=True)
class _Outcome:
    """A score, and whether its absence is a fault (a verifier may also have nothing to say)."""

    score: Score
    failed: bool = False


def _failed(error: str) -> _Outcome:
    return _Outcome(Score.unscored(f"failed: {error}"), failed=True)


def _checked(scores: Any, wanted: int) -> list[_Outcome]:
    """One outcome a candidate, whatever a verifier returned."""
    if not is_list(scores) or len(scores) != wanted:
        got = len(scores) if is_list(scores) else type(scores).__name__
        return [_failed(f"{wanted} completions, but {got} scores")] * wanted
    return [_one(score) for score in scores]


def _one(score: Any) -> _Outcome:
    try:
        return _Outcome(checked_score(score))
    except ForeignValueError as error:
        return _failed(str(error))


# ------------------------------------------------------------------ verifiers that ask a model

_ASKING = (
    "p-true", "self-judge", "generative", "consistency", "round-trip", "blindfold", "grounding", "premises",
)  # fmt: skip
"""Known ahead of time. Any other verifier that asks a model without a backend is found out at the first batch."""


def asks_model(verifier: Any) -> str | None:
    """The name of the first known one that asks a model, in a verifier or in what it is made of."""
    name = registry.name_of("verifiers", type(verifier))
    if name in _ASKING:
        return name
    if isinstance(verifier, Mapping):
        parts = list(verifier.values())
    else:
        composed = is_dataclass(verifier) and not isinstance(verifier, type)
        parts = [getattr(verifier, f.name) for f in fields(verifier)] if composed else []
    return next((found for part in parts if (found := asks_model(part)) is not None), None)
