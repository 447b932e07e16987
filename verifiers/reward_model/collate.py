"""Batches with a label at the last token of each step, by the collator that fine-tuning uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structdecode.backends.transformers.chat import Message, Rendered, Tokens
from structdecode.backends.transformers.collate import IGNORED, Collator, Example
from structdecode.core.errors import ModelError

NOWHERE = -1
"""In ``kinds``: no value is read at this token."""


@dataclass(frozen=True)
class Mark:
    """A place in an answer where a value is read.

    Attributes:
        end: characters of the answer before it. label: whether all is right up to here; None where unknown.
        kind: the stage's number in the schema; of a sentence's end inside of a stage: that plus the number of stages.
    """

    end: int
    label: float | None
    kind: int


@dataclass(frozen=True)
class StepExample(Example):
    """A question and a staged answer as a chat, where its steps end, and the row's number in its data set."""

    marks: tuple[Mark, ...] = ()
    row: int = 0


@dataclass(frozen=True)
class StepTokens(Tokens):
    """Tokens, and which of them end a step: (index, label or None, kind). Where the answer begins; the row's number."""

    steps: tuple[tuple[int, float | None, int], ...] = ()
    begin: int = 0
    row: int = 0


class StepCollator(Collator):
    """`Collator` with other labels: ``labels`` [B, L] are 0 or 1 at the last token of a step, else `IGNORED` (float).

    And ``kinds`` [B, L], the kind of the step that ends there (see `Mark`), or `NOWHERE`; ``answers`` [B, L], whether a
    token is the answer's; ``rows`` [B], the numbers of the examples that are in the batch.
    """

    def _encoded(self, example: Example) -> tuple[Rendered, Tokens] | None:
        found = super()._encoded(example)
        if found is None or not isinstance(example, StepExample):
            return found
        rendered, tokens = found
        answer = example.messages[-1]["content"][0]["text"]
        body = rendered.text.find(answer, rendered.spans[-1][0])
        if body < 0:
            raise ModelError("the chat template rewrites the answer: its steps cannot be found")
        offsets = self.chat.tokenizer(
            rendered.text, add_special_tokens=self.chat.adds_special(rendered.text), return_offsets_mapping=True
        )["offset_mapping"]
        ends = _last_tokens(offsets, [body + mark.end for mark in example.marks])
        steps = tuple((at, mark.label, mark.kind) for at, mark in zip(ends, example.marks, strict=True))
        begin = next(at for at, (_, last) in enumerate(offsets) if last > body)
        return rendered, StepTokens(tokens.ids, tokens.trained, steps, begin, example.row)

    def _labels(self, batch: dict[str, Tensor], rows: Sequence[Tokens]) -> Tensor:
        super()._labels(batch, rows)  # checks that a row ends with the tokens that it has without pictures
        labels = torch.full(batch["input_ids"].shape, float(IGNORED))
        kinds = torch.full_like(batch["input_ids"], NOWHERE)
        answers = torch.zeros_like(kinds, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            if not isinstance(tokens, StepTokens):
                continue
            places = batch["attention_mask"][row].nonzero().flatten()
            answers[row, places[tokens.begin - len(tokens.ids) :]] = True
            for at, label, kind in tokens.steps:
                place = places[at - len(tokens.ids)]
                kinds[row, place] = kind
                if label is not None:
                    labels[row, place] = label
        batch["kinds"], batch["answers"] = kinds, answers
        batch["rows"] = torch.tensor([tokens.row for tokens in rows if isinstance(tokens, StepTokens)])
        return labels


def _last_tokens(offsets: Sequence[tuple[int, int]], ends: Sequence[int]) -> list[int]:
    """For each count of characters the token that holds the last of them. Both in order."""
    found, at = [], 0
    for end in ends:
        while offsets[at][1] < end:
            at += 1
        found.append(at)
    return found


def chat(asked: str, images: Sequence[object], answer: str, history: Sequence[Message] = ()) -> list[Message]:
    """For a chat template, as decoding makes it: pictures first in the first user turn."""
    messages = [*history, {"role": "user", "content": [{"type": "text", "text": asked}]}]
    at = next(number for number, message in enumerate(messages) if message["role"] == "user")
    marked = {**messages[at], "content": [*({"type": "image"} for _ in images), *messages[at]["content"]]}
    return [
        *messages[:at], marked, *messages[at + 1 :],
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]  # fmt: skip
