"""Asks a reward model about candidates: all of a call in one padded batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from structdecode.backends.transformers.chat import Message
from structdecode.backends.transformers.flops import model_cost
from structdecode.core.budget import Usage
from structdecode.core.errors import DataError
from structdecode.core.types import Candidate, Prompt
from structdecode.verifiers.reward_model import network
from structdecode.verifiers.reward_model.collate import Mark, StepCollator, StepExample, chat
from structdecode.verifiers.reward_model.config import SEPARATOR, RewardConfig


@dataclass(frozen=True)
class Batch:
    """Candidates as the network takes them.

    Attributes:
        inputs: on the CPU. kinds: [B, L] as in `StepCollator`. rows: which candidate each row is.
        refused: why a candidate is not in it, by its number.
        usage: what running it costs.
    """

    inputs: dict[str, Tensor]
    kinds: Tensor
    rows: tuple[int, ...]
    refused: dict[int, str]
    usage: Usage


class Scorer:
    """A reward model in memory. Threads take turns."""

    def __init__(self, model: network.RewardModel, processor: Any, config: RewardConfig) -> None:
        self.model, self.config = model, config
        self._collator = StepCollator(processor, max_length=_context(model))
        self._cost = model_cost(model.backbone) if hasattr(model.backbone, "get_decoder") else None
        self._turn = threading.Lock()

    def batch(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Batch:
        """Texts and pictures to tensors; nothing of the network runs yet."""
        refused: dict[int, str] = {}
        examples = []
        for number, candidate in enumerate(candidates):
            reason = self._unknown(candidate)
            if reason:
                refused[number] = reason
            else:
                examples.append(self._example(prompt, candidate, number))
        with self._turn:
            before = len(self._collator.rejected)
            try:
                made = self._collator(examples) if examples else {}
            except DataError:
                made = {}
            said = self._collator.rejected[before:]
        rows = tuple(made["rows"].tolist()) if made else ()
        for line in said:
            source, _, reason = line.partition(": ")
            refused[int(source)] = reason
        inputs = {name: value for name, value in made.items() if name not in ("labels", "kinds", "rows")}
        tokens = int(inputs["attention_mask"].sum()) if made else 0
        usage = Usage(
            prefilled_tokens=tokens, images_encoded=len(rows) * len(prompt.images), model_calls=int(bool(rows))
        )
        if self._cost is not None:
            sizes = [picture.image.size for picture in prompt.images]
            usage = replace(usage, flops=self._cost.of(usage.as_dict(), sizes))
        return Batch(inputs, made.get("kinds", torch.empty(0, 0)), rows, refused, usage)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.backbone.parameters()).dtype
        return dtype

    @torch.inference_mode()
    def values(self, batch: Batch) -> dict[int, list[tuple[str, float]]]:
        """For each candidate in the batch (stage, probability that all is right up to its end), in order."""
        if not batch.rows:
            return {}
        dtype = self.dtype
        inputs = {
            name: value.to(self.model.device, dtype if value.is_floating_point() else None)
            for name, value in batch.inputs.items()
        }
        with self._turn:
            logits = self.model(**inputs)["logits"].double().cpu()  # [B, L]
        found: dict[int, list[tuple[str, float]]] = {}
        for row, number in enumerate(batch.rows):
            places = (batch.kinds[row] >= 0).nonzero().flatten().tolist()
            found[number] = [
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


_loading = threading.Lock()
_in_memory: WeakValueDictionary[tuple[str, str, str | None, str], Scorer] = WeakValueDictionary()


def scorer(path: str, device: str | None, dtype: str) -> Scorer:
    """One for all who ask for the same, in memory as long as one of them holds it."""
    place = str(Path(path).resolve())
    key = (place, RewardConfig.load(place).digest, device, dtype)
    with _loading:
        found = _in_memory.get(key)
        if found is None:
            found = _in_memory[key] = Scorer(*network.load(place, device=device, dtype=dtype))
        return found
