"""Stage-level beam search as others do it, with log-probability as the verifier and stages of a fixed length.

`upstream` does what LLaVA-o1's own script does: one candidate at a time, each from the picture and the whole
text anew. `transformers_user` is the best that `generate` gives out of the box: one call a stage with
``num_return_sequences``, again from the picture and the whole text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structdecode.types import Prompt


def _inputs(backend: Any, prompt: Prompt, written: list[int]) -> dict[str, Tensor]:
    """The prompt encoded anew, with what was written behind it."""
    inputs: dict[str, Tensor] = backend.codec.inputs(prompt)
    more = torch.tensor([written], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    mask = inputs["cross_attention_mask"]
    inputs["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, len(written), -1, -1)], dim=1)
    return inputs


def _generate(
    backend: Any, prompt: Prompt, written: list[int], tokens: int, n: int
) -> tuple[list[list[int]], list[float]]:
    inputs = _inputs(backend, prompt, written)
    with torch.inference_mode():
        output = backend.model.generate(
            **inputs, do_sample=True, top_k=0, max_new_tokens=tokens, min_new_tokens=tokens,
            num_return_sequences=n, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    log_probs = torch.stack(output.logits, dim=1).log_softmax(-1).gather(2, new[..., None]).squeeze(-1).mean(1)
    return new.tolist(), log_probs.tolist()


def upstream(backend: Any, prompt: Prompt, begins: list[list[int]], tokens: int, n: int) -> list[int]:
    written: list[int] = []
    for begin in begins:
        made = [_generate(backend, prompt, written + begin, tokens, 1) for _ in range(n)]
        best = max(made, key=lambda pair: pair[1][0])
        written = written + begin + best[0][0]
    return written


def transformers_user(backend: Any, prompt: Prompt, begins: list[list[int]], tokens: int, n: int) -> list[int]:
    written: list[int] = []
    for begin in begins:
        sequences, scores = _generate(backend, prompt, written + begin, tokens, n)
        written = written + begin + sequences[max(range(n), key=scores.__getitem__)]
    return written
