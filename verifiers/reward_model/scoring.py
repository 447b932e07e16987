"""Asks a reward model about candidates: those of all questions that are being asked, in one padded batch."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from structdecode.backends.transformers.chat import Message
from structdecode.backends.transformers.flops import model_cost
from structdecode.core.batching import Batcher
from structdecode.core.budget import Usage
from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ConfigError, DataError
from structdecode.core.resolution import resolution
from structdecode.core.types import Candidate, Prompt
from structdecode.verifiers.reward_model import network
from structdecode.verifiers.reward_model.collate import Mark, StepCollator, StepExample, chat
from structdecode.verifiers.reward_model.config import SEPARATOR, RewardConfig

MOST_ROWS = 64
"""Candidates of several questions in one forward pass; those of one question are never parted."""


Values = dict[int, list[tuple[str, float]]]
"""For each candidate, by its number: (stage, probability that all is right up to its end), in order."""


@dataclass
class Question:
    """Candidates of one question, and whom their work is charged to: asked once, right before it is done."""

    prompt: Prompt
    candidates: Sequence[Candidate]
    charge: Callable[[Usage], None]
    charged: bool = False

    def pay(self, usage: Usage) -> None:
        if not self.charged:
            self.charge(usage)
            self.charged = True


@dataclass(frozen=True)
class Found:
    """What came of one question's candidates; why those that have no values have none, by their number.

    Attributes:
        resolution: differences of values up to this are noise.
    """

    values: Values
    refused: dict[int, str]
    resolution: float


@dataclass(frozen=True)
class Collated:
    """Candidates of several questions as the network takes them.

    Attributes:
        inputs: on the CPU. kinds: [B, L] as in `StepCollator`. rows: (question, candidate) of each row.
        refused: why a candidate is not in it, by its question and number.
    """

    inputs: dict[str, Tensor]
    kinds: Tensor
    rows: tuple[tuple[int, int], ...]
    refused: dict[tuple[int, int], str]

    def tokens(self, question: int) -> int:
        """Those that one question's rows have, without padding."""
        of = [row for row, (number, _) in enumerate(self.rows) if number == question]
        return int(self.inputs["attention_mask"][of].sum()) if of else 0


class Scorer:
    """A reward model in memory: candidates of several questions in one forward pass. Not for two threads at once."""

    def __init__(self, model: network.RewardModel, processor: Any, config: RewardConfig) -> None:
        self.model, self.config = model, config
        self._collator = StepCollator(processor, max_length=_context(model))
        self._cost = model_cost(model.backbone) if hasattr(model.backbone, "get_decoder") else None

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.backbone.parameters()).dtype
        return dtype

    def score(self, questions: Sequence[Question]) -> list[Found | Exception]:
        """One forward pass for all, each question charged for its own rows; one that may not spend that takes no part.

        Questions have equally many pictures: rows with one and with two share no batch where a model attends to them.
        """
        batch = self._collated(questions, range(len(questions)))
        unpaid = self._unpaid(batch, questions)
        if unpaid:
            batch = self._collated(questions, [i for i in range(len(questions)) if i not in unpaid])
        values = self._values(batch)
        found: list[Found | Exception] = []
        for number in range(len(questions)):
            refused = {candidate: reason for (of, candidate), reason in batch.refused.items() if of == number}
            found.append(unpaid.get(number) or Found(values.get(number, {}), refused, resolution(self.dtype)))
        return found

    def _unpaid(self, batch: Collated, questions: Sequence[Question]) -> dict[int, Exception]:
        """Those whose charge was refused, and how."""
        refused: dict[int, Exception] = {}
        for number, question in enumerate(questions):
            try:
                question.pay(self._usage(batch, number, question.prompt))
            except Exception as error:
                refused[number] = error
        return refused

    def _usage(self, batch: Collated, number: int, prompt: Prompt) -> Usage:
        rows = sum(of == number for of, _ in batch.rows)
        usage = Usage(
            prefilled_tokens=batch.tokens(number), images_encoded=rows * len(prompt.images), model_calls=int(rows > 0)
        )
        if self._cost is None:
            return usage
        return replace(usage, flops=self._cost.of(usage.as_dict(), [picture.image.size for picture in prompt.images]))

    def _collated(self, questions: Sequence[Question], chosen: Sequence[int]) -> Collated:
        """Texts and pictures to tensors; nothing of the network runs yet."""
        places = [(number, at) for number in chosen for at in range(len(questions[number].candidates))]
        refused: dict[tuple[int, int], str] = {}
        examples = []
        for row, (number, at) in enumerate(places):
            candidate = questions[number].candidates[at]
            reason = self._unknown(candidate)
            if reason:
                refused[number, at] = reason
            else:
                examples.append(self._example(questions[number].prompt, candidate, row))
        before = len(self._collator.rejected)
        try:
            made = self._collator(examples) if examples else {}
        except DataError:
            made = {}
        for line in self._collator.rejected[before:]:
            source, _, reason = line.partition(": ")
            refused[places[int(source)]] = reason
        rows = tuple(places[row] for row in made["rows"].tolist()) if made else ()
        inputs = {name: value for name, value in made.items() if name not in ("labels", "kinds", "rows")}
        return Collated(inputs, made.get("kinds", torch.empty(0, 0)), rows, refused)

    @torch.inference_mode()
    def _values(self, batch: Collated) -> dict[int, Values]:
        """By question."""
        if not batch.rows:
            return {}
        inputs = {
            name: value.to(self.model.device, self.dtype if value.is_floating_point() else None)
            for name, value in batch.inputs.items()
        }
        logits = self.model(**inputs)["logits"].double().cpu()  # [B, L]
        found: dict[int, Values] = defaultdict(dict)
        for row, (number, at) in enumerate(batch.rows):
            places = (batch.kinds[row] >= 0).nonzero().flatten().tolist()
            found[number][at] = [
                (self.config.names[int(batch.kinds[row, at])], float(torch.sigmoid(logits[row, at]))) for at in places
            ]
        return found

    def _unknown(self, candidate: Candidate) -> str:
        if not candidate.spans:
            return "nothing is written yet"
        strange = next((stage for stage in candidate.stages if stage not in self.config.names), None)
        if strange is None:
            return ""
        return f"the reward model was trained on {', '.join(self.config.names)}, not on {strange}"

    def _example(self, prompt: Prompt, candidate: Candidate, number: int) -> StepExample:
        texts, marks, at = [], [], 0
        for stage, text in candidate.stages.items():
            written = self.config.written(stage, text, closed=stage != candidate.open_stage)
            texts.append(written)
            marks.append(Mark(at + len(written), None, self.config.names.index(stage)))
            at += len(written) + len(SEPARATOR)
        history: list[Message] = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in prompt.history
        ]
        images = tuple(picture.image for picture in prompt.images)
        messages = chat(self.config.asked(prompt), images, SEPARATOR.join(texts), history)
        return StepExample(str(number), messages, images, str(number), tuple(marks), number)


def _context(model: network.RewardModel) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def load(path: str, device: str | None = None, dtype: str = "auto") -> Scorer:
    """The reward model in a directory."""
    return Scorer(*network.load(path, device=device, dtype=dtype))


_loading = threading.Lock()
_in_memory: WeakValueDictionary[tuple[str, str, str | None, str], Batcher[Question, Found]] = WeakValueDictionary()


def shared(path: str, device: str | None, dtype: str, digest: str) -> Batcher[Question, Found]:
    """One for all who ask for the same, in memory as long as one of them holds it.

    Raises:
        ConfigError: the directory does not hold the checkpoint of this digest any more.
    """
    place = str(Path(path).resolve())
    key = (place, digest, device, dtype)
    with _loading:
        found = _in_memory.get(key)
        if found is None:
            if checkpoint_digest(place) != digest:
                raise ConfigError(f"reward model {path!r} has changed since this verifier was made: make it anew")
            found = _in_memory[key] = Batcher(
                load(place, device, dtype).score,
                size=lambda asked: len(asked.candidates),
                most=MOST_ROWS,
                kind=lambda asked: len(asked.prompt.images),
            )
        return found
