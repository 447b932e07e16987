"""How often the model in training is right, decoded stage by stage with this project's engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.engine import run_sync
from structdecode.core.many import decode_many
from structdecode.core.protocols import Strategy
from structdecode.core.types import Schema
from structdecode.matching import match
from structdecode.matching.types import Question
from structdecode.strategies.staged import Staged

GREEDY = Staged(temperature=0.0)


@dataclass(frozen=True)
class Accuracy:
    """Of one staged answer a question. ``well_formed`` counts those whose stages all came out as the schema has them."""

    right: int
    well_formed: int
    questions: int

    @property
    def value(self) -> float:
        return self.right / self.questions

    @property
    def error(self) -> float:
        """Standard error of a share."""
        return math.sqrt(self.value * (1 - self.value) / self.questions)

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        return {
            f"{prefix}accuracy": self.value, f"{prefix}accuracy_error": self.error,
            f"{prefix}well_formed": self.well_formed / self.questions, f"{prefix}questions": self.questions,
        }  # fmt: skip


def staged_accuracy(
    model: Any, processor: Any, questions: Sequence[Question], schema: Schema, strategy: Strategy = GREEDY
) -> Accuracy:
    """Decodes (greedily unless told) and matches by the rules of `structdecode.matching`.

    The model is only borrowed. An answer that no rule can tell right from wrong counts as wrong.
    """
    backend = TransformersBackend(model, processor, check=False)

    async def count() -> Accuracy:
        right = formed = 0
        prompts = [question.prompt() for question in questions]
        async for index, result in decode_many(prompts, backend=backend, strategy=strategy, schema=schema):
            right += match(result.answer, questions[index]).correct
            formed += result.best is not None and all(span.finish_reason == "stop" for span in result.best.spans)
        return Accuracy(right, formed, len(questions))

    return run_sync(count())


class MeasureAccuracy(TrainerCallback):
    """Every ``every`` steps, through `StagedTrainer.measure_accuracy`."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps:
            due = control.should_log
            self.trainer.measure_accuracy()
            control.should_log = due  # logging the accuracy has said that this step's loss is logged
