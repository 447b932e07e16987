"""Segments share by reference and copy on write; pools keep what is in them."""

from __future__ import annotations

import torch

from structdecode.backends.transformers.slots.kv import Layers, Pool, Segment


def tokens(count: int, value: float) -> Layers:
    return [(torch.full((1, 2, count, 4), value), torch.full((1, 2, count, 4), -value)) for _ in range(3)]


def contents(segment: Segment) -> list[float]:
    keys, values = segment.layer(1)
    assert torch.equal(keys, -values)
    return keys[0, 0, :, 0].tolist()


def test_segment_grows_in_place_for_the_first_and_copies_for_the_second() -> None:
    prompt = Segment(tokens(5, 1.0), 5)
    first = prompt.extended(tokens(2, 2.0))  # no room in the prompt's own tensors: moves once
    second = first.extended(tokens(3, 3.0))
    assert second.layer(0)[0].data_ptr() == first.layer(0)[0].data_ptr()
    sibling = first.extended(tokens(1, 4.0))  # the place behind `first` is taken
    assert sibling.layer(0)[0].data_ptr() != first.layer(0)[0].data_ptr()
    assert contents(prompt) == [1.0] * 5
    assert contents(first) == [1.0] * 5 + [2.0] * 2
    assert contents(second) == [1.0] * 5 + [2.0] * 2 + [3.0] * 3
    assert contents(sibling) == [1.0] * 5 + [2.0] * 2 + [4.0]


def test_head_is_the_same_memory_and_safe_to_extend() -> None:
    prompt = Segment(tokens(5, 1.0), 5).extended(tokens(4, 2.0))
    head = prompt.head(6)
    assert head.layer(0)[0].data_ptr() == prompt.layer(0)[0].data_ptr()
    assert contents(head.extended(tokens(1, 9.0))) == [1.0] * 5 + [2.0, 9.0]
    assert contents(prompt) == [1.0] * 5 + [2.0] * 4


def test_pool_keeps_rows_when_it_grows_and_when_they_move() -> None:
    pool = Pool(tokens(1, 0.0))
    pool.ensure(2, 5)
    pool.put(0, 0, tokens(3, 1.0))
    pool.put(1, 2, tokens(2, 2.0))
    needed = pool.growth(3, 100)
    pool.ensure(3, 100)
    assert needed == sum(t.nbytes for t in (*pool.keys, *pool.values))
    assert pool.growth(3, 100) == 0
    assert pool.take(0, 0, 3)[2][0].unique().tolist() == [1.0]
    pool.move(1, 0, 4)
    assert pool.take(0, 2, 4)[1][1].unique().tolist() == [-2.0]
