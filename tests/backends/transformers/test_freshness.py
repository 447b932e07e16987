"""Nothing stale: after any change of the model one backend writes what a fresh one writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.freshness import WIDTH, structure, values
from structdecode.core.errors import ModelError
from structdecode.core.protocols import GenerationRequest, Row, Session
from structdecode.core.types import Candidate, Prompt, Sampling, Stage
from structdecode.evaluation.isolation import isolated
from tests.backends.transformers import tiny
from tests.backends.transformers.traced import Traced

OPEN = Stage("answer", "", "")
FREE = Sampling(temperature=1.0)


def backend_of(model: Any, processor: Any, engine: str) -> TransformersBackend:
    backend = TransformersBackend(model, processor, engine="plain" if engine == "plain" else "slots")
    if engine == "recorded":
        backend.scheduler.forward.recorder = Traced()
        backend.scheduler.sync_interval = 4
    return backend


async def write(session: Session, tokens: int = 6) -> list[tuple[int, ...]]:
    """20 sampled texts."""
    rows = [Row(Candidate(), seed, tokens) for seed in range(20)]
    return [span.token_ids for span in (await session.extend(rows, GenerationRequest(OPEN, FREE))).value]


def texts(backend: TransformersBackend, prompt: Prompt) -> list[tuple[int, ...]]:
    async def opened() -> list[tuple[int, ...]]:
        async with backend.open(prompt) as session:
            return await write(session)

    return asyncio.run(opened())


def adapted(name: str) -> tuple[Any, Any]:
    """A tiny model with two adapters that do something."""
    peft = pytest.importorskip("peft")
    model, processor = tiny.build(name)
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "down_proj", "fc2"], init_lora_weights=False)
    model = peft.get_peft_model(model, config)
    model.add_adapter("other", config)
    return model.eval(), processor


# ------------------------------------------------------------------ the changes
def head(model: Any) -> Any:
    return model.get_output_embeddings()


def train(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    ids = torch.arange(10, 30)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


def fused_adamw(model: Any, _: ExitStack) -> None:
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05, fused=True))


def foreach_sgd(model: Any, _: ExitStack) -> None:
    train(model, torch.optim.SGD(model.parameters(), lr=1.0, foreach=True))


def through_data(model: Any, _: ExitStack) -> None:
    head(model).weight.data.neg_()


def in_place(model: Any, _: ExitStack) -> None:
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.down_proj.weight.mul_(-3)


def load_state_dict(model: Any, _: ExitStack) -> None:
    model.load_state_dict({name: value.flip(0) if value.is_floating_point() else value
                           for name, value in model.state_dict().items()})  # fmt: skip


def replaced_parameter(model: Any, _: ExitStack) -> None:
    head(model).weight = nn.Parameter(-head(model).weight.detach())


def replaced_module(model: Any, _: ExitStack) -> None:
    model.get_decoder().layers[0].mlp.down_proj = nn.Linear(48, 32, bias=False)


def to_bfloat16(model: Any, _: ExitStack) -> None:
    model.to(torch.bfloat16)


def configured(model: Any, _: ExitStack) -> None:
    for module in model.get_decoder().modules():
        if hasattr(module, "scaling"):
            module.scaling *= 8


def disable_adapter(model: Any, stack: ExitStack) -> None:
    stack.enter_context(model.disable_adapter())


def set_adapter(model: Any, _: ExitStack) -> None:
    model.set_adapter("other")


def merge_adapter(model: Any, _: ExitStack) -> None:
    model.merge_adapter()


def unmerge_adapter(model: Any, _: ExitStack) -> None:
    model.merge_adapter(["other"])
    model.unmerge_adapter()


def scaled_adapter(model: Any, _: ExitStack) -> None:
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", -1.0)


def attention(model: Any, _: ExitStack) -> None:
    model.set_attn_implementation("eager")


Change = Callable[[Any, ExitStack], None]
OF_WEIGHTS: list[Change] = [
    fused_adamw, foreach_sgd, through_data, in_place, load_state_dict, replaced_parameter, replaced_module,
    to_bfloat16, configured, attention,
]  # fmt: skip
OF_ADAPTERS: list[Change] = [disable_adapter, set_adapter, merge_adapter, unmerge_adapter, scaled_adapter]
SAME_TEXTS: list[Change] = [merge_adapter, unmerge_adapter, attention]
"""Changes that the model's distribution survives, up to rounding."""


CASES = [(name, engine, change) for name, engine in (("mllama", "slots"), ("mllama", "plain"))
         for change in (*OF_WEIGHTS, *OF_ADAPTERS)]  # fmt: skip
RECORDED = [("llava", "recorded", c) for c in (fused_adamw, through_data, replaced_module, set_adapter, attention)]
"""One of a kind each: recording makes a step many times slower here."""


@pytest.mark.parametrize("name, engine, change", [*CASES, *RECORDED])
def test_texts_after_a_change_are_a_fresh_backends(name: str, engine: str, change: Change, prompt: Prompt) -> None:
    model, processor = adapted(name) if change in OF_ADAPTERS else tiny.build(name)
    backend = backend_of(model, processor, engine)
    before = texts(backend, prompt)
    assert texts(backend, prompt) == before
    assert engine == "plain" or backend.prefixes.hits == 1  # the cache is in force
    assert backend.packed_layers
    with ExitStack() as stack:
        change(model, stack)
        after = texts(backend, prompt)
        assert after == texts(backend_of(model, processor, engine), prompt)
        assert after != before or change in SAME_TEXTS
        assert engine == "plain" or backend.prefixes.hits == 1
    if change is disable_adapter:
        assert texts(backend, prompt) == before


def test_a_change_between_two_calls_of_one_session(engine: str, prompt: Prompt) -> None:
    """The prompt, its picture and its branches are computed anew, and that is billed."""
    model, processor = tiny.build("mllama")
    backend = backend_of(model, processor, engine)

    async def search() -> None:
        async with backend.open(prompt) as session:
            first = await session.extend([Row(Candidate(), 1, 6)], GenerationRequest(OPEN, FREE))
            branch = Candidate().extended(first.value[0], 0)
            async with session.open(prompt) as judge:
                looked = await judge.log_probs(["yes"])
            assert looked.usage.images_encoded == 0
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.1)
            again = await session.extend([Row(branch, 1, 6)], GenerationRequest(OPEN, FREE))
            length = backend.codec.inputs(prompt)["input_ids"].shape[1]
            assert again.usage.prefilled_tokens == length + len(branch.token_ids)
            assert again.usage.images_encoded == 1
            async with session.open(Prompt("And now?", prompt.images)) as judge:
                looked = await judge.log_probs(["yes"])
            async with backend_of(model, processor, engine).open(prompt) as fresh:
                assert (await fresh.extend([Row(branch, 1, 6)], GenerationRequest(OPEN, FREE))).value == again.value
            async with backend_of(model, processor, engine).open(Prompt("And now?", prompt.images)) as fresh:
                expected = (await fresh.log_probs(["yes"])).value[0]
            assert looked.value[0] == pytest.approx(expected, abs=1e-4)

    asyncio.run(search())


def test_weights_overwritten_under_an_answer_fail_it(engine: str, prompt: Prompt) -> None:
    if engine == "recorded":
        pytest.skip("a recorded step runs no Python in which this test could write")
    model, processor = tiny.build("llava")
    backend, calls = backend_of(model, processor, engine), 0

    def overwrite(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            head(model).weight.data.neg_()

    model.get_decoder().register_forward_pre_hook(overwrite)
    with pytest.raises(ModelError, match="overwritten while"):
        texts(backend, prompt)
    assert texts(backend, prompt) == texts(backend_of(model, processor, engine), prompt)


def test_a_search_that_opens_among_others_has_the_adapter_of_now(prompt: Prompt) -> None:
    """The others end what they are at with theirs."""
    model, processor = adapted("llava")
    backend = TransformersBackend(model, processor)
    before, switched = texts(backend, prompt), asyncio.Event()

    async def both() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        loop, calls = asyncio.get_running_loop(), 0

        def switch(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                asyncio.run_coroutine_threadsafe(turn(), loop).result()

        async def turn() -> None:
            model.set_adapter("other")
            switched.set()

        model.get_decoder().register_forward_pre_hook(switch)

        async def second() -> list[tuple[int, ...]]:
            await switched.wait()
            async with backend.open(prompt) as session:
                return await write(session)

        async with backend.open(prompt) as session:
            return tuple(await asyncio.gather(write(session), second()))  # type: ignore[return-value]

    first, then = asyncio.run(asyncio.wait_for(both(), 60))
    assert first == before
    assert then == texts(TransformersBackend(model, processor), prompt) != before


# ------------------------------------------------------------------ what is looked at
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8])
@pytest.mark.parametrize("size", [1, 7, 4 * WIDTH * 5 + 3])
def test_the_least_change_of_one_element_is_seen(kind: torch.dtype, size: int) -> None:
    net = nn.Module()
    net.register_buffer(
        "x", torch.full((size,), 1000).to(kind) if kind is not torch.uint8 else torch.ones(size).to(kind)
    )
    before = values(net)
    assert values(net) == before
    for at in {0, size // 2, size - 1}:
        last = net.x.data[at].clone()  # type: ignore[operator, index]
        net.x.data[at] = last + 1 if kind is torch.uint8 else torch.nextafter(last, last * 2)  # type: ignore[operator, index]
        assert values(net) != before
        net.x.data[at] = last  # type: ignore[operator, index]
        assert values(net) == before


def test_exchanged_rows_are_seen() -> None:
    torch.manual_seed(0)
    net = nn.Embedding(2 * WIDTH + 1, 8)
    before = values(net)
    for other in (1, 2, WIDTH, 2 * WIDTH):
        with torch.no_grad():
            net.weight[[0, other]] = net.weight[[other, 0]]
            assert values(net) != before
            net.weight[[0, other]] = net.weight[[other, 0]]
        assert values(net) == before


def test_training_mode_and_a_forward_are_no_changes() -> None:
    model, _ = tiny.build("qwen2.5-vl")
    ids = torch.arange(10, 30)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids))  # transformers adds hooks at the first one
    before = structure(model), values(model)
    model.train()
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    assert (structure(model), values(model)) == before


def test_a_questions_own_prefix_cache_is_renewed_too(prompt: Prompt) -> None:
    """A comparison gives each question a cache of its own: it is no part of the backend that notices the change."""
    model, processor = tiny.build("mllama")
    kept = isolated(TransformersBackend(model, processor))
    before = texts(kept, prompt)  # type: ignore[arg-type]
    assert texts(kept, prompt) == before and kept.prefixes.hits == 1  # type: ignore[arg-type, attr-defined]
    with ExitStack() as stack:
        through_data(model, stack)
    after = texts(kept, prompt)  # type: ignore[arg-type]
    assert after == texts(TransformersBackend(model, processor), prompt) != before
    assert kept.prefixes.hits == 1  # type: ignore[attr-defined]
