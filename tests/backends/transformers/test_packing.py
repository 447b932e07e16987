"""Packed weights: the same products, on the twin alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdecode.backends.transformers import TransformersBackend, packing
from structdecode.backends.transformers.packing import pack_linears
from structdecode.backends.transformers.twin import twin
from structdecode.core.engine import decode
from structdecode.core.types import Prompt
from tests.backends.transformers import tiny


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80), nn.SiLU(), nn.Linear(80, 32, bias=False))


@pytest.mark.parametrize("shape", [(1, 48), (8, 1, 48), (2, 33, 48)])
def test_products_are_those_of_the_weights(shape: tuple[int, ...]) -> None:
    net, x = network(), torch.randn(*shape)
    packed = twin(net)
    assert pack_linears(packed) == 2
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), net(x), atol=1e-5, rtol=1e-5)
    assert all("forward" in vars(packed[i]) and "forward" not in vars(net[i]) for i in (0, 2))  # type: ignore[index]


def test_a_hook_in_place_of_forward_is_left_alone() -> None:
    net = network()
    hooked = net[0].forward = lambda x: x @ net[0].weight.T
    assert pack_linears(net) == 1
    assert net[0].forward is hooked


def test_what_cannot_be_packed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pack_linears(network().bfloat16())
    assert not pack_linears(network().to("meta"))
    monkeypatch.setattr(packing, "free_memory", lambda device: 1000)
    assert not pack_linears(network())


def test_the_engine_packs_and_leaves_the_model_alone(prompt: Prompt) -> None:
    answers = {}
    for pack in (True, False):
        backend = TransformersBackend(*tiny.build("mllama"), pack_weights=pack)
        answers[pack] = decode(prompt, backend=backend, strategy="best-of-n", seed=3).best
        assert bool(backend.packed_layers) == pack
        assert not any("forward" in module.__dict__ for module in backend.model.modules())
    assert answers[True] == answers[False] or answers[True].text == answers[False].text
