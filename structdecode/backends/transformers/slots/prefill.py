"""A prompt that nothing is known of, through the model: at once, or in chunks between other rows' steps.

Models whose pictures are tokens of the text are prefilled in chunks: the picture is encoded and put among the
text's embeddings by the model's own code, which is stopped right before its text model; that takes the embeddings
chunk by chunk. Where the text model is handed more than embeddings, mask and positions, all goes at once.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from structdecode.backends.transformers.slots.requests import CHUNK, ModelCall
from structdecode.backends.transformers.vision import ImageMemory
from structdecode.core.budget import Usage
from structdecode.core.protocols import Account

if TYPE_CHECKING:
    from structdecode.backends.transformers.backend import TransformersBackend

_PLAIN = {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache"}


@dataclass(frozen=True)
class Prefilled:
    """A prompt's cache, the logits [V] behind it, and its mRoPE delta."""

    cache: DynamicCache
    logits: Tensor
    delta: int


@dataclass(frozen=True)
class _Embedded:
    embeds: Tensor  # [1, L, C]
    positions: Tensor | None  # [..., 1, L]
    delta: int


class _Captured(BaseException):
    """Stops a forward in front of the text model."""


def prefill(
    backend: TransformersBackend, inputs: dict[str, Tensor], images: ImageMemory, pictures: int, account: Account
) -> Generator[list[ModelCall], None, Prefilled]:
    """Yields the pieces of work; returns what came of them. ``pictures``: how many the prompt has.

    Pictures that were encoded are charged to the account.
    """
    misses = images.misses

    def charge() -> None:
        if pictures and images.misses > misses:
            account.charge(Usage(images_encoded=pictures))

    if pictures and not backend.cross_layers and inputs["input_ids"].shape[1] > CHUNK:
        call = ModelCall(lambda: _embedded(backend, inputs, images))
        yield [call]
        if call.result is not None:
            charge()
            cache, logits = yield from _in_chunks(backend, inputs["input_ids"], call.result)
            return Prefilled(cache, logits, call.result.delta)

    def at_once() -> tuple[Any, int]:
        with images.over(backend.running_tower if pictures else None, backend.epoch):
            return backend.forward(**inputs, use_cache=True, logits_to_keep=1)

    call = ModelCall(at_once)
    yield [call]
    charge()
    output, delta = call.result
    return Prefilled(output.past_key_values, output.logits[0, -1], delta)


def _in_chunks(
    backend: TransformersBackend, ids: Tensor, found: _Embedded
) -> Generator[list[ModelCall], None, tuple[DynamicCache, Tensor]]:
    decoder, cache, length = backend.running.get_decoder(), DynamicCache(), ids.shape[1]
    for begin in range(0, length - 1, CHUNK):
        part = slice(begin, min(begin + CHUNK, length - 1))
        positions = None if found.positions is None else found.positions[..., part]

        def chunk(part: slice = part, positions: Tensor | None = positions) -> None:
            decoder(inputs_embeds=found.embeds[:, part], position_ids=positions, past_key_values=cache, use_cache=True)

        yield [ModelCall(chunk)]
    last = torch.tensor([[length - 1 + found.delta]], device=ids.device)
    call = ModelCall(
        lambda: backend.forward(
            input_ids=ids[:, -1:], position_ids=last, past_key_values=cache, use_cache=True,
            attention_mask=torch.ones_like(ids),
        )
    )  # fmt: skip
    yield [call]
    return cache, call.result[0].logits[0, -1]


def _embedded(backend: TransformersBackend, inputs: dict[str, Tensor], images: ImageMemory) -> _Embedded | None:
    """What the model would hand to its text model; None where that is more than embeddings and positions."""
    caught: dict[str, Any] = {}

    def catch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.update(kwargs, positional=args)
        raise _Captured

    hook = backend.running.get_decoder().register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with images.over(backend.running_tower, backend.epoch):
            backend.forward(**inputs, use_cache=True, logits_to_keep=1)
    except _Captured:
        pass
    finally:
        hook.remove()
    more = {
        name
        for name, value in caught.items()
        if name not in _PLAIN and isinstance(value, Tensor | list | tuple) and len(value)
    }
    mask = caught.get("attention_mask")
    if more or caught.get("inputs_embeds") is None or (mask is not None and (mask.dim() != 2 or not mask.all())):
        return None
    return _Embedded(caught["inputs_embeds"], caught.get("position_ids"), backend.rope_delta())
