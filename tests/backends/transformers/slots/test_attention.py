"""Shared-prefix attention against plain attention over everything at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from structdecode.backends.transformers.slots.attention import (
    Batch,
    Shared,
    SharedImageKV,
    attend,
    join,
    shared_prefix_attention,
)
from structdecode.backends.transformers.slots.kv import Segment


class _Layer(nn.Module):
    layer_idx = 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    groups = query.shape[1] // keys.shape[1]
    keys, values = (t.repeat_interleave(groups, dim=1) for t in (keys, values))
    return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 30), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.data()
)
@settings(max_examples=60, deadline=None)
def test_rows_on_segments_attend_as_if_each_had_its_own_copy(
    rows: int, prefix: int, own: int, groups: int, tokens: int, data: st.DataObject
) -> None:
    """Some rows on one segment, some on another, some on none; ragged; grouped heads; several query tokens."""
    heads, dim = 2, 8
    query = random(rows, heads * groups, tokens, dim, seed=1)
    keys, values = (random(rows, heads, own + tokens, dim, seed=s) for s in (2, 3))
    segments = [Segment([(random(1, heads, prefix + i, dim, seed=4 + i), random(1, heads, prefix + i, dim, seed=8 + i))],
                        prefix + i) for i in range(2)]  # fmt: skip
    on = [data.draw(st.integers(0, 2)) for _ in range(rows)]
    filled = torch.tensor([data.draw(st.integers(0, own)) for _ in range(rows)])
    places = filled[:, None] + torch.arange(tokens)
    unseen = torch.arange(own + tokens) > places[..., None]
    mask = torch.zeros(unseen.shape).masked_fill(unseen, -torch.inf)[:, None]
    shared = []
    for number in (0, 1):
        chosen = [row for row in range(rows) if on[row] == number]
        if chosen:
            shared.append(Shared(segments[number], None if len(chosen) == rows else torch.tensor(chosen)))
    batch = Batch(mask, shared, position={0: 0})
    found, _ = shared_prefix_attention(_Layer(), query, keys, values, None, rows=batch)
    for row in range(rows):
        ks, vs, ms = keys[row : row + 1], values[row : row + 1], mask[row : row + 1]
        if on[row] < 2:
            k, v = segments[on[row]].layer(0)
            ks, vs = torch.cat([k, ks], 2), torch.cat([v, vs], 2)
            ms = torch.cat([torch.zeros(1, 1, tokens, k.shape[2]), ms], 3)
        expected = plain(query[row : row + 1], ks, vs, ms).transpose(1, 2)
        torch.testing.assert_close(found[row : row + 1], expected, atol=2e-6, rtol=1e-5)


def test_joining_is_attention_over_the_union() -> None:
    query, keys, values = random(2, 3, 4, 8), random(2, 3, 20, 8, seed=1), random(2, 3, 20, 8, seed=2)
    whole, _ = attend(query, keys, values, None, 0.3)
    parts = [attend(query, keys[:, :, part], values[:, :, part], None, 0.3) for part in (slice(7), slice(7, None))]
    torch.testing.assert_close(join(*parts[0], *parts[1]), whole, atol=1e-6, rtol=1e-5)


def test_rows_see_their_own_pictures_and_rows_without_one_see_nothing() -> None:
    query = random(4, 4, 2, 8)
    pictures = [{0: (random(1, 2, 9, 8, seed=s), random(1, 2, 9, 8, seed=s + 1))} for s in (1, 3)]
    mask = torch.zeros(1, 1, 2, 9).masked_fill(torch.arange(9) > torch.tensor([[3], [6]]), -torch.inf)
    seen = [SharedImageKV(pictures[0], torch.tensor([0, 3]), None), SharedImageKV(pictures[1], torch.tensor([2]), mask)]
    batch = Batch(None, seen=seen, cross=frozenset({0}))
    empty = torch.zeros(1)
    found, _ = shared_prefix_attention(_Layer(), query, empty, empty, None, rows=batch)
    nothing = torch.zeros(1, 1, 2, 9)
    for row, picture, seen_mask in ((0, 0, nothing), (3, 0, nothing), (2, 1, mask)):
        expected = plain(query[row : row + 1], *pictures[picture][0], seen_mask).transpose(1, 2)
        torch.testing.assert_close(found[row : row + 1], expected, atol=2e-6, rtol=1e-5)
    assert not found[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_sum_exp_is_right(dtype: torch.dtype) -> None:
    query, keys, values = (random(1, 2, 3, 16, seed=s).to(dtype) for s in range(3))
    _, lse = attend(query, keys, values, None, 0.25)
    expected = (query.float() @ keys.float().transpose(-1, -2) * 0.25).logsumexp(-1)
    torch.testing.assert_close(lse.float(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)
