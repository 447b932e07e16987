"""Verifiers as rewards: functions that TRL's GRPO, RLOO and online trainers call with a batch of completions.

A verifier may raise, hang or answer nonsense; training goes on. What it leaves unscored is ``None`` (TRL then leaves
the row out of this reward), and the share of such rows is logged as ``rewards/<name>/unscored`` and ``.../failed``.
A mistake of the user's (no backend for a verifier that asks a model, no column with the answers) raises before the
first batch is rewarded, so before the first step.

>>> reward = format_reward()
>>> reward(["How many?"], ["<SUMMARY> Count. </SUMMARY> <REASONING> So 2. </REASONING> <CONCLUSION> 2 </CONCLUSION>"])
[1.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from structdecode.core.border import check_timeout
from structdecode.core.budget import Budget
from structdecode.core.decoder import verifier_name
from structdecode.core.engine import run_sync
from structdecode.core.errors import ConfigError
from structdecode.core.lookup import find_schema
from structdecode.core.protocols import Backend, Verifier
from structdecode.core.seeds import checked
from structdecode.core.settings import verifier_from
from structdecode.core.types import Schema
from structdecode.matching import match
from structdecode.matching.types import Kind, Question
from structdecode.training.rollouts import Columns, Rollout, read_rollouts
from structdecode.training.verifier_rewards import Rewards, VerifierReward, asks_model

Reward = Callable[..., Rewards]


def as_reward(
    verifier: Verifier | str,
    backend: Backend | None = None,
    *,
    schema: Schema | str = "llava-o1",
    name: str | None = None,
    malformed: float | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    sync: bool = False,
) -> Callable[..., Any]:
    """A TRL reward function from any verifier.

    Completions of one question are scored together, as a search would have them: a knock-out among a group's
    completions means what it means among candidates.

    Args:
        verifier: or its registered name.
        backend: the model for verifiers that ask one. Not the model that is being trained: its weights change
            under the backend's feet, and a judge that moves with the policy is no fixed reward.
        name: what metrics call it; default: the verifier's.
        malformed: the reward of a completion that breaks the schema; None leaves that to the verifier.
        timeout: seconds after which a group's scores count as failed. An async verifier that blocks the event loop
            cannot be timed out; a plain one runs in a thread of its own, and is left behind.
        budget: limits for each group of completions; what they leave unscored is None.
        seed: of the verifier's own sampling, with the training step.
        sync: a plain function instead of an async one. TRL runs async rewards side by side.

    Returns:
        The function that TRL calls; async unless ``sync``.

    Raises:
        ConfigError: the verifier asks a model and there is no backend, or a name or value is wrong.
    """
    made: Verifier = verifier_from(verifier)
    called = name or (verifier if isinstance(verifier, str) else verifier_name(made))
    asking = asks_model(made)
    if backend is None and asking is not None:
        raise ConfigError(f"verifier {asking!r} asks a model: give as_reward a backend")
    limit, seed = check_timeout(timeout, "timeout"), checked(seed)
    reward = VerifierReward(made, backend, _schema(schema), called, malformed, limit, budget or Budget(), seed)
    if not sync:
        return reward

    def reward_now(*batch: Any, **more: Any) -> Rewards:
        return run_sync(reward(*batch, **more))

    reward_now.__name__ = called
    return reward_now


def format_reward(schema: Schema | str = "llava-o1", *, graded: bool = True, name: str = "format") -> Reward:
    """Whether a completion keeps the schema: each stage once, in order, closed, not empty, nothing outside of the tags.

    Args:
        graded: the share of the stages that are well formed, so that a model far from the form has a slope to
            climb; else 1 for all of them and 0 for anything less, which leaves no partial form to settle on.
    """
    found = _schema(schema)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], *_: Any, **columns: Any) -> Rewards:
        rollouts = read_rollouts(prompts, completions, columns, found)
        return [_form(rollout) if graded else float(rollout.well_formed) for rollout in rollouts]

    reward.__name__ = name
    return reward


def answer_reward(
    schema: Schema | str = "llava-o1",
    *,
    column: str = "answer",
    kind: Kind | None = None,
    tolerance: float | None = None,
    name: str = "answer",
) -> Reward:
    """1 where the visible stages' text matches the reference, else 0; by the rules of `structdecode.matching`.

    Args:
        column: the data's column with the reference, a text or a list of accepted ones. A row without one is None.
        kind, tolerance: of `Question`; the data's column ``options`` (letter -> text) is used where there is one.

    Raises:
        ConfigError: by the function, at the first batch: the data has no such column.
    """
    found = _schema(schema)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], *_: Any, **columns: Any) -> Rewards:
        if column not in columns:
            known = sorted(key for key, value in columns.items() if isinstance(value, list))
            raise ConfigError(
                f"the data has no column {column!r} with the answers; it has: {', '.join(known) or 'none'}"
            )
        rollouts = read_rollouts(prompts, completions, columns, found)
        return [_correct(rollout, columns, column, kind, tolerance) for rollout in rollouts]

    reward.__name__ = name
    return reward


def _form(rollout: Rollout) -> float:
    spans = rollout.candidate.spans
    return sum(span.finish_reason == "stop" and bool(span.text) for span in spans) / max(len(spans), 1)


def _correct(
    rollout: Rollout, columns: Columns, column: str, kind: Kind | None, tolerance: float | None
) -> float | None:
    given = columns[column][rollout.row]
    several = given if isinstance(given, list | tuple) else [given]
    answers = tuple(str(answer) for answer in several if answer is not None and str(answer).strip())
    if not answers:
        return None
    shown = columns["options"][rollout.row] if columns.get("options") is not None else None
    options = {key: text for key, text in shown.items() if text is not None} if isinstance(shown, Mapping) else {}
    text = rollout.prompt.question if rollout.prompt is not None else ""
    question = Question(str(rollout.row), text, answers, options=options, kind=kind, tolerance=tolerance)
    return float(match(rollout.candidate.answer(rollout.schema), question).correct)


def _schema(schema: Schema | str) -> Schema:
    return schema if isinstance(schema, Schema) else find_schema(schema)
