"""The same searches as others run them, with stages of a fixed length so that the work is equal.

`Upstream` does what LLaVA-o1's own script does (`inference/demo/simple_inference.py`): one candidate at a time,
each from the picture and the whole text anew, and the model judges pair after pair in the same way.
`TransformersUser` is the best that `generate` gives out of the box: one call a stage with
``num_return_sequences``, again from the picture and the whole text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structdecode.core.types import Prompt
from structdecode.verifiers import prompts


class Baseline:
    """A backend's model, used through `generate` alone.

    Args:
        begins: each stage's begin tag as tokens. tokens: how long a stage is.
    """

    def __init__(self, backend: Any, prompt: Prompt, begins: list[list[int]], tokens: int) -> None:
        self.backend, self.prompt, self.begins, self.tokens = backend, prompt, begins, tokens

    def generate(
        self, prompt: Prompt, written: list[int], tokens: int, n: int = 1, cache: str | None = None
    ) -> tuple[list[list[int]], list[float]]:
        """``n`` continuations of exactly ``tokens`` tokens, and their mean log-probabilities."""
        inputs = self._inputs(prompt, written)
        options = {} if cache is None else {"cache_implementation": cache}
        with torch.inference_mode():
            output = self.backend.model.generate(
                **inputs, do_sample=True, top_k=0, max_new_tokens=tokens, min_new_tokens=tokens,
                num_return_sequences=n, output_logits=True, return_dict_in_generate=True, **options,
            )  # fmt: skip
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        log_probs = torch.stack(output.logits, dim=1).log_softmax(-1).gather(2, new[..., None]).squeeze(-1).mean(1)
        return new.tolist(), log_probs.tolist()

    def _inputs(self, prompt: Prompt, written: list[int]) -> dict[str, Tensor]:
        """The prompt encoded anew, with what was written behind it."""
        inputs: dict[str, Tensor] = self.backend.codec.inputs(prompt)
        more = torch.tensor([written], dtype=torch.long, device=inputs["input_ids"].device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "cross_attention_mask" in inputs:
            mask = inputs["cross_attention_mask"]
            more_mask = mask[:, -1:].expand(-1, len(written), -1, -1)
            inputs["cross_attention_mask"] = torch.cat([mask, more_mask], dim=1)
        return inputs


class Upstream(Baseline):
    """Batch 1, picture and text from the start for every candidate and every verdict."""

    def best_of_n(self, n: int) -> list[int]:
        whole = len(self.begins) * self.tokens
        made = [self.generate(self.prompt, [], whole) for _ in range(n)]
        return max(made, key=lambda pair: pair[1][0])[0][0]

    def stage_beam(self, n: int, judge_tokens: int = 0) -> list[int]:
        """With ``judge_tokens`` the model chooses by knock-out, else the log-probability does."""
        written: list[int] = []
        for at, begin in enumerate(self.begins):
            made = [self.generate(self.prompt, written + begin, self.tokens) for _ in range(n)]
            best = max(made, key=lambda pair: pair[1][0])[0][0]
            if judge_tokens:
                best = self._knockout([pair[0][0] for pair in made], list(prompts.RUBRICS)[at], judge_tokens)
            written = written + begin + best
        return written

    def _knockout(self, texts: list[list[int]], stage: str, tokens: int) -> list[int]:
        while len(texts) > 1:
            first, second = texts.pop(0), texts.pop(0)
            words = [self.backend.codec.decode(text) for text in (first, second)]
            if stage == "REASONING":
                for text in words:
                    check = prompts.fill(
                        prompts.PRE_CHECK, question=self.prompt.question, hint="", stage=stage, text=text
                    )
                    self.generate(Prompt(check), [], tokens)
            question = prompts.fill(
                prompts.JUDGE, rubric=prompts.RUBRICS[stage], question=self.prompt.question, hint="",
                first=words[0], second=words[1],
            )  # fmt: skip
            self.generate(Prompt(question, self.prompt.images), [], tokens)
            texts.append(first)
        return texts[0]


class TransformersUser(Baseline):
    """One `generate` a stage."""

    def stage_beam(self, n: int, cache: str | None = None) -> list[int]:
        written: list[int] = []
        for begin in self.begins:
            sequences, scores = self.generate(self.prompt, written + begin, self.tokens, n, cache)
            written = written + begin + sequences[max(range(n), key=scores.__getitem__)]
        return written
