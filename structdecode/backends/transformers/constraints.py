"""What a checkpoint's ``generation_config`` asks of drawing besides temperature, top-k and top-p: repetition penalty,
n-grams that may not repeat, suppressed tokens and the like, by transformers' own processors.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from structdecode.core.errors import ModelError

if TYPE_CHECKING:
    from structdecode.backends.transformers.sequences import TokenSequence

_HONOURED = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None, "sequence_bias": None, "min_length": 0,
    "min_new_tokens": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "exponential_decay_length_penalty": None,
}  # fmt: skip
"""Settings of ``generation_config`` that are obeyed, each with what means nothing. How tokens are sampled (``temperature``,
``top_k``, ``top_p``, ``min_p`` and kin) is the stage's `Sampling` alone."""
_REFUSED = {
    "guidance_scale": 1.0, "watermarking_config": None, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "forced_eos_token_id": None, "stop_strings": None,
}  # fmt: skip


def constraints(model: Any) -> dict[str, Any]:
    """What the model's ``generation_config`` asks for, by setting; empty where drawing is free."""
    return _given(model.generation_config, _HONOURED)


def check_constraints(model: Any, name: str) -> None:
    """Raises `ModelError` where ``generation_config`` asks for what is not done here, or for what cannot be done."""
    for setting, value in _given(model.generation_config, _REFUSED).items():
        raise ModelError(
            f"model {name!r}: its generation_config asks for {setting}={value!r}, which is not supported: "
            f"set model.generation_config.{setting} = {_REFUSED[setting]!r}, or take it out of generation_config.json"
        )
    constraint(model, {"input_ids": torch.zeros(1, 1, dtype=torch.long)})


def _given(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    values = {setting: getattr(config, setting, None) for setting in settings}
    return {setting: value for setting, value in values.items() if value not in (None, [], settings[setting])}


@dataclass(frozen=True, eq=False)
class Constraint:
    """What rows behind one prompt may draw."""

    processors: LogitsProcessorList

    def __call__(self, sequences: Sequence[TokenSequence], logits: Tensor) -> Tensor:
        """[n, V] -> [n, V], of rows that are equally long."""
        ids = torch.cat([sequence.tokens(logits.device) for sequence in sequences])
        found: Tensor = self.processors(ids, logits)
        return found


def constraint(model: Any, inputs: dict[str, Tensor]) -> Constraint | None:
    """For one prompt; None where drawing is free.

    Raises:
        ModelError: transformers refuses what is asked for.
    """
    asked = constraints(model)
    if not asked:
        return None
    config = copy.deepcopy(model.generation_config)
    config.do_sample = False
    device, ids = model.device, inputs["input_ids"][0]
    try:
        model._prepare_special_tokens(config, device=device)
        processors = model._get_logits_processor(config, input_ids_seq_length=len(ids), device=device)
    except Exception as error:  # it raises what it likes on values that make no sense
        first = str(error).strip().split("\n")[0]
        raise ModelError(
            f"the model's generation_config asks for {asked}, which transformers refuses ({first}): correct it"
        ) from error
    return Constraint(processors)


def constrained(sequences: Sequence[TokenSequence], logits: Tensor) -> Tensor:
    """What the rows draw from. [n, V] -> [n, V]; the model's own logits where nothing is asked for.

    Rows of one request that are equally long go through the processors together.
    """
    if all(sequence.free for sequence in sequences):
        return logits
    alike: dict[tuple[Constraint, int], list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        if sequence.constraint is not None:
            alike[sequence.constraint, len(sequence.wanted) + len(sequence.ids)].append(row)
    found = logits.clone()  # some processors write into what they are given
    for (constraint, _), rows in alike.items():
        found[rows] = constraint([sequences[row] for row in rows], logits[rows])
    for row, sequence in enumerate(sequences):
        if sequence.processors:
            found[row] = sequence.processed(found[row : row + 1].clone())[0]
    return found
