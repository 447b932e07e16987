"""The judge of every check: a second copy of the model, asked through `generate` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationMixin, LogitsProcessor, LogitsProcessorList

from structdecode.backends.transformers.loading import load_processor
from structdecode.core.types import Candidate, Prompt

TOLERANCE = 2e-3
"""Nats that a log-probability may be off: float32 sums in another order, over a few layers."""


class Forced(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row no choice but its given tokens, and behind them the first of the vocabulary."""

    def __init__(self, start: int, rows: Sequence[Sequence[int]]) -> None:
        self.start, self.rows = start, rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        at = input_ids.shape[1] - self.start
        forced = torch.tensor([row[at] if at < len(row) else 0 for row in self.rows])
        return torch.full_like(scores, -torch.inf).scatter(1, forced[:, None], 0.0)


class Oracle:
    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        self.processor = load_processor(directory)

    def inputs(self, prompt: Prompt, rows: int = 1) -> dict[str, Any]:
        """The prompt as often as there are rows, encoded by the processor in the way that model cards show."""
        content: list[dict[str, str]] = [{"type": "image"} for _ in prompt.images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt.question}]}]
        template = self.processor if getattr(self.processor, "chat_template", None) else self.processor.tokenizer
        text = template.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        pictures = [[picture.image for picture in prompt.images]] * rows if prompt.images else None
        inputs = dict(
            self.processor(text=[text] * rows, images=pictures, add_special_tokens=False, return_tensors="pt")
        )
        return {name: self._placed(value) for name, value in inputs.items() if name != "labels"}

    def _placed(self, value: Any) -> Any:
        return value.to(self.model.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def greedy(self, prompt: Prompt, tokens: int) -> list[int]:
        inputs = self.inputs(prompt)
        ids = (
            self._generate(inputs, do_sample=False, max_new_tokens=tokens)
            .sequences[0, inputs["input_ids"].shape[1] :]
            .tolist()
        )
        return ids[:-1] if ids and ids[-1] == 2 else ids  # type: ignore[no-any-return]

    def log_probs(self, prompt: Prompt, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of each token of each row, as `generate` writes them when it is forced to."""
        inputs = self.inputs(prompt, len(rows))
        longest = max(map(len, rows))
        forced = LogitsProcessorList([Forced(inputs["input_ids"].shape[1], rows)])
        output = self._generate(
            inputs, do_sample=False, max_new_tokens=longest, logits_processor=forced, eos_token_id=-1
        )
        logits = torch.stack(output.logits, 1).float().log_softmax(-1)  # [B, T, V]
        return [logits[i, range(len(ids)), list(ids)].tolist() for i, ids in enumerate(rows)]

    def _generate(self, inputs: dict[str, Any], **options: Any) -> Any:
        with torch.inference_mode():
            # the class's own: Janus' leaves the processors out
            return GenerationMixin.generate(
                self.model, **inputs, return_dict_in_generate=True, output_logits=True, **options
            )

    def difference(self, prompt: Prompt, candidates: Sequence[Candidate]) -> float:
        """The largest difference of a log-probability, over the tokens that candidates wrote."""
        worst = 0.0
        for candidate, expected in zip(
            candidates, self.log_probs(prompt, [c.token_ids for c in candidates]), strict=True
        ):
            at = 0
            for span in candidate.spans:
                at += len(span.prefix_ids)
                theirs = expected[at : at + len(span.token_ids)]
                differences = [abs(a - b) for a, b in zip(span.log_probs, theirs, strict=True)]
                worst = max([worst, *(math.inf if math.isnan(each) else each for each in differences)])
                at += len(span.token_ids) + len(span.suffix_ids)
        return worst
