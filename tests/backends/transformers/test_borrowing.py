"""A borrowed model stays as it is, whatever happens and whoever else uses it meanwhile."""

from __future__ import annotations

import asyncio
import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.freshness import structure, values
from structdecode.backends.transformers.twin import twin
from structdecode.core.errors import ModelError
from structdecode.core.types import Prompt
from tests.backends.transformers import tiny
from tests.backends.transformers.test_freshness import backend_of, texts, train, write


def state(model: Any) -> Any:
    """All that a caller could find changed, down to which forward each module has."""
    return (
        structure(model), values(model), model.training, getattr(model.model, "rope_deltas", None),
        [c._attn_implementation for c in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()],
        [(sorted(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
    )  # fmt: skip


def beside(work: Callable[[], object], until: Callable[[], bool]) -> list[BaseException]:
    """Runs work in a thread again and again, at least once and until something is so. What it raised."""
    raised: list[BaseException] = []

    def loop() -> None:
        try:
            work()
            while not until():
                work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    return raised


@pytest.mark.parametrize("name, engine", [("mllama", "slots"), ("qwen2.5-vl", "slots"), ("mllama", "plain")])
def test_others_may_use_the_model_while_a_search_runs(name: str, engine: str, prompt: Prompt) -> None:
    model, processor = tiny.build(name)
    backend = backend_of(model, processor, engine)
    inputs = backend.codec.inputs(prompt)
    with torch.no_grad():
        expected = model(**inputs).logits
    before, alone, calls = state(model), texts(backend, prompt), 0
    done = threading.Event()
    wrong: list[object] = []

    def user() -> None:
        nonlocal calls
        try:
            while calls < 150 or not done.is_set():
                with torch.no_grad():
                    if not torch.allclose(model(**inputs).logits, expected, atol=1e-5):
                        wrong.append("other logits")
                calls += 1
        except BaseException as error:
            wrong.append(repr(error))

    thread = threading.Thread(target=user)
    thread.start()
    searched = 0
    while searched < 2 or (calls < 150 and thread.is_alive()):
        backend.prefixes.clear()
        assert texts(backend, prompt) == alone
        searched += 1
    done.set()
    thread.join(120)
    assert not wrong and calls >= 150
    assert state(model) == before


def test_two_backends_of_one_model_in_two_threads(prompt: Prompt) -> None:
    model, processor = tiny.build("mllama")
    model.train()
    backends = [backend_of(model, processor, engine) for engine in ("slots", "plain")]
    alone = [texts(backend, prompt) for backend in backends]
    before = state(model)

    def search(backend: TransformersBackend, expected: object) -> None:
        for _ in range(10):
            backend.prefixes.clear()
            assert texts(backend, prompt) == expected

    raised: list[BaseException] = []
    threads = [
        threading.Thread(target=lambda work: raised.extend(beside(work, lambda: True)), args=(functools.partial(search, *each),))
        for each in zip(backends, alone, strict=True)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not raised
    assert state(model) == before


@pytest.mark.parametrize("engine", ["slots", "plain"])
def test_others_may_train_the_model_while_a_search_runs(engine: str, prompt: Prompt) -> None:
    """Gradients alone change nothing; where weights are written to, a search says so or has the weights of then."""
    model, processor = tiny.build("mllama")
    backend = backend_of(model, processor, engine)
    alone, searching = texts(backend, prompt), threading.Event()
    standing = torch.optim.SGD(model.parameters(), lr=0.0)

    def search(times: int) -> list[object]:
        found: list[object] = []
        for _ in range(times):
            try:
                found.append(texts(backend, prompt))
            except ModelError as error:
                found.append(error)
        searching.set()
        return found

    found: list[object] = []
    for optimizer in (standing, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)):
        searching.clear()
        thread = threading.Thread(target=lambda: found.extend(search(3)))
        thread.start()
        assert not beside(lambda o=optimizer: train(model, o), searching.is_set)  # type: ignore[misc]
        thread.join()
        if optimizer is standing:
            assert found == [alone] * 3
    assert len(found) == 6
    assert texts(backend, prompt) == texts(backend_of(model, processor, engine), prompt)


@pytest.mark.parametrize("engine", ["slots", "plain"])
def test_failures_and_cancellation_leave_the_model_as_it_was(engine: str, prompt: Prompt) -> None:
    model, processor = tiny.build("qwen2.5-vl")
    backend = backend_of(model, processor, engine)
    alone = texts(backend, prompt)
    calls, reached = 0, threading.Event()

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        reached.set()
        if calls == 3:
            raise ValueError("on purpose")

    hook = model.get_decoder().register_forward_pre_hook(fail)
    before = state(model)
    with pytest.raises(ModelError, match="on purpose"):
        texts(backend, prompt)
    assert state(model) == before

    async def cancelled() -> None:
        reached.clear()
        async with backend.open(prompt) as session:
            task = asyncio.create_task(write(session, 200))
            await asyncio.to_thread(reached.wait)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    assert state(model) == before
    hook.remove()
    assert texts(backend, prompt) == alone


# ------------------------------------------------------------------ the twin
def test_a_twin_shares_every_tensor_and_no_module() -> None:
    for name in tiny.ARCHITECTURES:
        model, _ = tiny.build(name)
        other = twin(model.train())
        assert model.training and not any(m.training for m in other.modules())
        assert not {id(m) for m in model.modules()} & {id(m) for m in other.modules()}
        assert {id(t) for t in model.parameters()} == {id(t) for t in other.parameters()}
        assert {id(t) for t in model.buffers()} == {id(t) for t in other.buffers()}
        assert not {id(m.config) for m in model.modules() if hasattr(m, "config")} & {
            id(m.config) for m in other.modules() if hasattr(m, "config")
        }


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.factor  # type: ignore[operator]


def patched(kind: str, layer: Doubled) -> None:
    """Puts a forward of somebody's in place of the layer's own, in the ways that libraries do it."""
    operations = pytest.importorskip("accelerate.utils.operations")
    old = layer.forward

    def closure(x: Tensor) -> Tensor:
        return old(x) + 1

    def function(self: Doubled, x: Tensor) -> Tensor:
        return Doubled.forward(self, x) + 1

    forwards = {
        "closure": closure, "method": types.MethodType(function, layer), "partial": functools.partial(function, layer),
        "accelerate": operations.convert_outputs_to_fp32(old),
        "accelerate-method": types.MethodType(operations.convert_outputs_to_fp32(old.__func__), layer),  # type: ignore[attr-defined]
        "autocast": torch.autocast("cpu", torch.bfloat16)(closure),
    }  # fmt: skip
    layer.forward = forwards[kind]  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("kind", ["closure", "method", "partial", "accelerate", "accelerate-method", "autocast"])
def test_a_forward_in_place_of_the_modules_own_runs_on_the_twin(kind: str) -> None:
    layer, x = Doubled(3, 3), torch.randn(2, 3)
    layer.factor = 2.0
    patched(kind, layer)
    net = nn.Sequential(layer)
    other, expected = twin(net), net(x)
    assert torch.equal(other(x), expected)
    layer.factor = 5.0
    assert torch.equal(other(x), expected)


def test_a_model_that_cannot_be_copied_is_refused(prompt: Prompt) -> None:
    model, processor = tiny.build("llava")
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match="cannot be borrowed: its modules cannot be copied"):
        texts(TransformersBackend(model, processor), prompt)
