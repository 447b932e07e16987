"""Packed weights: the same products, nothing left on the model, and never an old weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdecode.backends.transformers import TransformersBackend, packing
from structdecode.backends.transformers.packing import PackedLinears
from structdecode.engine import decode
from structdecode.types import Prompt
from tests.backends.transformers import tiny


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80), nn.SiLU(), nn.Linear(80, 32, bias=False))


@pytest.mark.parametrize("shape", [(1, 48), (8, 1, 48), (2, 33, 48)])
def test_products_are_those_of_the_weights(shape: tuple[int, ...]) -> None:
    net, x = network(), torch.randn(*shape)
    packed = PackedLinears(net)
    with torch.inference_mode():
        plain = net(x)
        with packed.installed():
            assert all("forward" in net[i].__dict__ for i in (0, 2))
            torch.testing.assert_close(net(x), plain, atol=1e-5, rtol=1e-5)
    assert len(packed) == 2 and not any("forward" in layer.__dict__ for layer in net)


def test_a_weight_that_was_trained_is_packed_again() -> None:
    net, x = network(), torch.randn(4, 48)
    packed = PackedLinears(net)
    with torch.inference_mode(), packed.installed():
        before = net(x)
    with torch.no_grad():
        net[2].weight.mul_(2)
    with torch.inference_mode(), packed.installed():
        torch.testing.assert_close(net(x), before * 2, atol=1e-5, rtol=1e-5)


def test_who_trains_meanwhile_gets_gradients() -> None:
    net = network()
    with PackedLinears(net).installed():
        net(torch.randn(2, 48)).sum().backward()
    assert net[0].weight.grad is not None


def test_a_hook_in_place_of_forward_is_left_alone() -> None:
    net = network()
    hooked = net[0].forward = lambda x: x @ net[0].weight.T
    with PackedLinears(net).installed():
        assert net[0].forward is hooked
    assert net[0].forward is hooked


def test_what_cannot_be_packed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not PackedLinears(network().bfloat16())
    assert not PackedLinears(network().to("meta"))
    monkeypatch.setattr(packing, "free_memory", lambda device: 1000)
    assert not PackedLinears(network())


def test_the_engine_packs_and_gives_back(prompt: Prompt) -> None:
    answers = {}
    for pack in (True, False):
        backend = TransformersBackend(*tiny.build("mllama"), pack_weights=pack)
        answers[pack] = decode(prompt, backend=backend, strategy="best-of-n", seed=3).best
        assert bool(backend._packed) == pack
        assert not any("forward" in module.__dict__ for module in backend.model.modules())
    assert answers[True] == answers[False] or answers[True].text == answers[False].text
