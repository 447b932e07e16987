"""Attention of rows that share their beginnings: one product for all over what is shared, joined with each one's own.

For rows that continue one segment the queries are folded into one, so that its keys and values are read once;
the result is joined with the attention over the row's own tokens through the two log-sum-exps (Hydragen, Juravsky
et al. 2024, arXiv 2402.05099, section 3; cascade inference in FlashInfer). Cross-attention to a picture folds all
rows of the picture in the same way. Exact up to rounding. Registered as a transformers attention function, so no
model code is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from structdecode.backends.transformers.slots.kv import Segment

NAME = "structdecode-shared-prefix"


Rows = Tensor | slice | None
"""Which rows of a batch: their numbers [G], a slice where they stand side by side, None for all of them."""


@dataclass(frozen=True)
class Shared:
    """Rows that continue one segment."""

    segment: Segment
    rows: Rows


@dataclass(frozen=True)
class SharedImageKV:
    """Rows that look at one set of pictures.

    Attributes:
        layers: keys and values [1, H, S, D] by layer number.
        mask: additive, [1, 1, T or 1, S], None where all of it is seen.
    """

    layers: dict[int, tuple[Tensor, Tensor]]
    rows: Rows
    mask: Tensor | None


@dataclass
class Batch:
    """What the attention function has to know about the rows of one forward.

    Attributes:
        own_mask: additive, [n, 1, T, width]: what each token sees of its row's slot; None where all of it.
    """

    own_mask: Tensor | None
    shared: Sequence[Shared] = ()
    seen: Sequence[SharedImageKV] = ()
    cross: frozenset[int] = field(default_factory=frozenset)
    position: dict[int, int] = field(default_factory=dict)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores. [B, H, T, D] and [B, H, S, D] -> [B, H, T, D], [B, H, T]"""
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, False, attn_mask=mask, scale=scale
        )
        return out, lse
    scores = torch.matmul(query, keys.transpose(-1, -2)).float() * scale  # [B, H, T, S]
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    return torch.matmul((scores - lse[..., None]).exp().to(values.dtype), values), lse


def join(one: Tensor, one_lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """Attention over the union of two sets of keys, from the attention over each."""
    weight = (other_lse - one_lse).sigmoid().to(one.dtype)[..., None]  # [B, H, T, 1]
    return torch.lerp(one, other, weight)


def _fold(tensor: Tensor) -> Tensor:
    """All rows' queries as one row's. [G, H, T, D] -> [1, H, G * T, D]"""
    if tensor.shape[0] == 1:
        return tensor
    return tensor.transpose(0, 1).flatten(1, 2)[None]


def _unfold(tensor: Tensor, tokens: int) -> Tensor:
    """The other way. [1, H, G * T, ...] -> [G, H, T, ...]"""
    if tensor.shape[2] == tokens:
        return tensor
    return tensor[0].reshape(tensor.shape[1], -1, tokens, *tensor.shape[3:]).transpose(0, 1)


def _pick(tensor: Tensor, rows: Rows) -> Tensor:
    return tensor if rows is None else tensor[rows]


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    rows: Batch | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """A transformers attention function. query [n, H, T, D]; key, value [n, Hkv, width, D] -> [n, T, H, D]"""
    assert rows is not None
    n, heads, tokens, dim = query.shape
    scale = dim**-0.5 if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if layer in rows.cross:
        return _pictures(query, rows, layer, scale).transpose(1, 2), None
    groups = heads // key.shape[1]
    packed = query.reshape(n, key.shape[1], groups * tokens, dim)  # a key's heads become tokens of one
    mask = rows.own_mask
    if mask is not None and groups > 1:
        mask = mask.repeat(1, 1, groups, 1)
    if not rows.shared:
        out = nn.functional.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    else:
        own, own_lse = attend(packed, key, value, mask, scale)
        out = _with_shared(packed, own, own_lse, rows, rows.position[layer], scale)
    return out.reshape(n, heads, tokens, value.shape[-1]).transpose(1, 2), None


def _with_shared(query: Tensor, own: Tensor, own_lse: Tensor, rows: Batch, layer: int, scale: float) -> Tensor:
    """Joins what the rows see of their shared segments. [n, H, T, D] -> [n, H, T, D]"""
    tokens = query.shape[2]
    out = own
    for shared in rows.shared:
        keys, values = shared.segment.layer(layer)
        chosen = _pick(query, shared.rows)
        common, lse = attend(_fold(chosen), keys, values, None, scale)
        common, lse = _unfold(common, tokens), _unfold(lse, tokens)  # [G, H, T, D], [G, H, T]
        if shared.rows is None:
            return join(own, own_lse, common, lse)
        joined = join(own[shared.rows], own_lse[shared.rows], common, lse)
        if out is own:
            out = own.clone()
        out[shared.rows] = joined
    return out


def _pictures(query: Tensor, rows: Batch, layer: int, scale: float) -> Tensor:
    """Cross-attention; rows without a picture get zeros. [n, H, T, D] -> [n, H, T, D]"""
    if len(rows.seen) == 1 and rows.seen[0].rows is None:
        return _look(query, rows.seen[0], layer, scale)
    out = torch.zeros_like(query)
    for seen in rows.seen:
        out[seen.rows] = _look(_pick(query, seen.rows), seen, layer, scale)
    return out


def _look(query: Tensor, seen: SharedImageKV, layer: int, scale: float) -> Tensor:
    """What rows find in the pictures that they all see. [G, H, T, D] -> [G, H, T, D]"""
    n, heads, tokens, dim = query.shape
    keys, values = seen.layers[layer]
    groups = heads // keys.shape[1]
    packed = query.reshape(n, keys.shape[1], groups * tokens, dim)
    mask = seen.mask
    if mask is not None and mask.shape[2] > 1:
        mask = mask.repeat(1, 1, n * groups, 1)
    found = nn.functional.scaled_dot_product_attention(_fold(packed), keys, values, attn_mask=mask, scale=scale)
    return _unfold(found, groups * tokens).reshape(query.shape)


def text_configs(model: nn.Module) -> list[Any]:
    """The configurations in which the text model's attention is named."""
    decoder = model.get_decoder()  # type: ignore[operator]
    found = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}
    return list(found.values())


def slots_can_run(model: nn.Module) -> bool:
    """Whether the text model attends fully and causally, lets its attention be put in from outside, and caches the keys
    and values that it attends to.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return False
    if any(hasattr(module, "sinks") for module in model.get_decoder().modules()):  # type: ignore[operator]
        return False  # a share of the attention that goes to no token
    for config in text_configs(model):
        if getattr(config, "kv_lora_rank", None):
            return False  # latents are cached, and made keys and values behind the cache
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        capped = getattr(config, "attn_logit_softcapping", None)
        if kinds - {"full_attention"} or (window and not kinds) or capped:
            return False
    return True


@contextmanager
def attending(configs: Sequence[Any]) -> Iterator[None]:
    """While this is open the text model attends through `shared_prefix_attention`; then as before."""
    before = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


AttentionInterface.register(NAME, shared_prefix_attention)
