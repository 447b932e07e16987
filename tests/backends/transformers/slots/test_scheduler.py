"""Many questions in one batch: the same answers as one at a time, whatever goes wrong in between."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.backend import Engine
from structdecode.backends.transformers.slots import requests, scheduler
from structdecode.backends.transformers.slots.kv import Pool
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.decoder import MeteredDecoder
from structdecode.core.engine import adecode
from structdecode.core.errors import ModelError, ModelFailedError
from structdecode.core.lifetimes import Lifetimes
from structdecode.core.many import decode_many
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.settings import build
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Stage
from tests.backends.transformers import tiny

SHORT = Schema(
    "short",
    tuple(Stage.tagged(n, sampling=Sampling(temperature=1.2, max_tokens=9)) for n in ("CAPTION", "CONCLUSION")),
)
OPEN = Stage("ANSWER")


def backend(name: str = "mllama", **options: Any) -> TransformersBackend:
    return TransformersBackend(*tiny.build(name), **options)


def questions(picture: Image.Image, n: int = 7) -> list[Prompt]:
    """With and without a picture, of different lengths."""
    return [
        Prompt(f"How many objects are there? {'And why?' * (i % 3)}{i}", [picture] if i % 3 else ()) for i in range(n)
    ]


def answers(built: TransformersBackend, prompts: list[Prompt], strategy: str = "stage-beam") -> list[str]:
    async def run() -> list[str]:
        found = [""] * len(prompts)
        async for at, result in decode_many(prompts, backend=built, schema=SHORT, strategy=strategy, seed=4):
            found[at] = result.best.text if result.best else ""
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
@pytest.mark.parametrize("strategy", ["staged", "best-of-n", "stage-beam"])
def test_many_at_once_write_what_the_plain_engine_writes(name: str, strategy: str, picture: Image.Image) -> None:
    prompts = questions(picture)
    expected = answers(backend(name, engine="plain"), prompts, strategy)
    assert answers(backend(name), prompts, strategy) == expected
    assert answers(backend(name, max_rows=3, prefix_cache_bytes=0), prompts, strategy) == expected
    assert len(set(expected)) == len(prompts)


@pytest.mark.parametrize("engine", ["slots", "plain"])
def test_what_the_search_dropped_is_freed(engine: Any, prompt: Prompt) -> None:
    """What it kept continues without a token computed again, closed by force or not."""

    async def run(keep: bool) -> tuple[int, int, Usage]:
        async with backend(engine=engine).open(SHORT.ask(prompt)) as session:
            meter = Meter(Budget())
            decoder = MeteredDecoder(prompt, SHORT, session, meter, Trace({}), (0, ""), None, Lifetimes())
            made = await decoder.extend([decoder.root], SHORT.stages[0], n=4)
            branches: Any = session
            before = len(branches.branches)
            if keep:
                decoder.keep(made[:1])
            after = len(branches.branches)
            await decoder.extend(made[:1], SHORT.stages[1])
            return before, after, replace(meter.usage, seconds=0.0)

    before, after, usage = asyncio.run(run(True))
    assert before - after == 3
    assert usage == asyncio.run(run(False))[2]


def test_a_free_slot_is_filled_at_once(picture: Image.Image) -> None:
    """Rows of 1 to 8 tokens through 3 slots: as many steps as full slots need, not the longest of each three."""
    built, sizes = backend(max_rows=3), []
    forward = built.forward

    def counted(**inputs: Any) -> Any:
        if "rows" in inputs:
            sizes.append(len(inputs["input_ids"]))
        return forward(**inputs)

    built.forward = counted  # type: ignore[method-assign]
    built.codec.end_of_text = frozenset()

    async def run() -> int:
        async with built.open(Prompt("How many?", [picture])) as session:
            rows = [Row(Candidate(), seed, limit) for seed, limit in enumerate([8, 1, 2, 7, 1, 3, 5, 4])]
            work = await session.extend(rows, GenerationRequest(OPEN, Sampling(temperature=1.0, max_tokens=8)))
            assert [len(span.token_ids) for span in work.value] == [8, 1, 2, 7, 1, 3, 5, 4]
            return work.usage.generated_tokens

    generated = asyncio.run(run())
    fed = generated - 8  # the last token of a row is not fed
    assert sum(sizes) == fed and max(sizes) == 3
    assert len(sizes) <= fed / 3 + 5


def test_out_of_memory_shrinks_the_batch_and_loses_nothing(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = questions(picture)
    expected = answers(backend(), prompts)
    ensure = Pool.ensure

    def limited(pool: Pool, rows: int, width: int) -> None:
        if rows > 5:
            raise torch.OutOfMemoryError("out of memory")
        ensure(pool, rows, width)

    monkeypatch.setattr(Pool, "ensure", limited)
    with caplog.at_level(logging.WARNING):
        built = backend()
        assert answers(built, prompts) == expected
    assert 1 <= built.scheduler.max_rows <= 5
    assert "out of memory" in caplog.text


def test_rows_that_were_in_when_memory_ran_out_are_not_lost(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows come at once into slots that were never filled before; the sixth finds no memory."""
    ensure = Pool.ensure

    def limited(pool: Pool, rows: int, width: int) -> None:
        if rows > 5:
            raise torch.OutOfMemoryError("out of memory")
        ensure(pool, rows, width)

    async def written(built: TransformersBackend) -> list[str]:
        async with built.open(prompt) as session:
            rows = [Row(Candidate(), seed, 6) for seed in range(8)]
            work = await asyncio.wait_for(session.extend(rows, GenerationRequest(OPEN, Sampling(max_tokens=6))), 60)
            return [span.text for span in work.value]

    expected = asyncio.run(written(backend()))
    monkeypatch.setattr(Pool, "ensure", limited)
    assert asyncio.run(written(backend())) == expected


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7])
def test_half_the_rows_at_a_time_and_no_row_is_lost(
    room: int, prompt: Prompt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory for so many rows, one alone at the least; the rows that are in when the next finds none are told."""
    ensure = Pool.ensure

    def limited(pool: Pool, rows: int, width: int) -> None:
        if rows > room:
            raise torch.OutOfMemoryError("out of memory")
        ensure(pool, rows, width)

    async def written(built: TransformersBackend) -> list[str]:
        async with built.open(prompt) as session:
            rows = [Row(Candidate(), seed, 6) for seed in range(9)]
            work = await asyncio.wait_for(session.extend(rows, GenerationRequest(OPEN, Sampling(max_tokens=6))), 60)
            assert work.usage.generated_tokens <= 9 * 6, "drawn again, and billed once"
            return [span.text for span in work.value]

    expected, built = asyncio.run(written(backend())), backend(max_rows=9)
    monkeypatch.setattr(Pool, "ensure", limited)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(written(built)) == expected
    left = max(1, room // 2)
    assert caplog.messages == [f"out of memory with {room} rows in a batch: continuing with up to {left}"]
    assert built.scheduler.max_rows == left


@pytest.mark.parametrize("opened_meanwhile", [False, True])
def test_what_fails_before_the_model_runs_reaches_who_asked_in_one_line(prompt: Prompt, opened_meanwhile: bool) -> None:
    built, error = backend(), RuntimeError("no such layer\nin the model")

    class Lost:
        """A model that cannot be looked at."""

        def refresh(self) -> bool:
            if opened_meanwhile:
                built.scheduler.check_soon()
            raise error

        overwritten = restructured = refresh

    built.scheduler._borrowed = Lost()  # type: ignore[assignment]

    async def run() -> None:
        async with built.open(prompt) as session:
            await asyncio.wait_for(session.extend([Row(Candidate(), 0, 3)], GenerationRequest(OPEN, Sampling())), 20)

    with pytest.raises(ModelFailedError, match="the model failed: RuntimeError: no such layer; ") as caught:
        asyncio.run(run())
    assert caught.value.__cause__ is error


def test_what_fails_between_two_steps_of_a_request_does_too(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    built = backend()

    async def run() -> None:
        async with built.open(prompt) as session:
            await session.log_probs(["one two three"])
            monkeypatch.setattr(torch, "cat", lambda *_, **__: [][1])
            await session.log_probs(["four five six"])

    with pytest.raises(ModelFailedError, match="the model failed: IndexError: "):
        asyncio.run(run())


def test_out_of_memory_in_the_middle_of_a_step_too(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = questions(picture)
    expected = answers(backend(), prompts)
    built, steps = backend(), 0
    forward = built.forward

    def failing(**inputs: Any) -> Any:
        nonlocal steps
        steps += "rows" in inputs and inputs["input_ids"].shape[1] == 1
        if steps in (3, 9):
            steps += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return forward(**inputs)

    built.forward = failing  # type: ignore[method-assign]
    assert answers(built, prompts) == expected
    assert steps > 9


def test_rows_wait_for_memory_while_others_run(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = questions(picture)
    expected = answers(backend(), prompts)
    monkeypatch.setattr(scheduler, "free_memory", lambda device: 0)
    assert answers(backend(), prompts) == expected


@pytest.mark.parametrize("engine", ["slots", "plain"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IndexError("index 9 is out of bounds\nand more"), "the model failed: IndexError: index 9 is out of bounds; "),
        (TypeError("'NoneType' object is not subscriptable"), "the model failed: TypeError: 'NoneType' object"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "the model ran out of memory: lower max_rows"),
    ],
)
def test_a_failing_model_fails_the_question_in_one_line_and_not_the_backend(
    picture: Image.Image, engine: Engine, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    built = TransformersBackend(*tiny.build("mllama"), engine=engine)
    forward = built.forward

    def failing(**_: Any) -> Any:
        raise error

    built.forward = failing  # type: ignore[method-assign]
    with pytest.raises(ModelError) as caught:
        asyncio.run(adecode(Prompt("?", [picture]), backend=built, schema=SHORT))
    if engine == "slots":
        assert caplog.messages == [f"a batch failed: {type(caught.value).__name__}: {caught.value}"]
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    built.forward = forward  # type: ignore[method-assign]
    assert asyncio.run(adecode(Prompt("?", [picture]), backend=built, schema=SHORT)).best is not None


def test_a_question_that_is_given_up_leaves_the_others_alone(picture: Image.Image) -> None:
    prompts = questions(picture, 3)
    expected = answers(backend(), prompts)
    built = backend()

    async def run() -> list[str]:
        given_up = asyncio.create_task(adecode(prompts[0], backend=built, schema=SHORT, strategy="best-of-n"))
        others = [
            asyncio.create_task(
                adecode(p, backend=built, schema=SHORT, strategy="stage-beam", seed=4, sample_id=str(i))
            )
            for i, p in enumerate(prompts)
        ]
        await asyncio.sleep(0.02)
        given_up.cancel()
        return [(await task).best.text for task in others]  # type: ignore[union-attr]

    assert asyncio.run(run()) == expected
    assert not built.scheduler._scheduled


def test_a_later_prompt_takes_over_what_it_has_in_common(picture: Image.Image) -> None:
    for name in tiny.ARCHITECTURES:
        built = backend(name)
        one, two = (
            Prompt("How many objects are there in all of the picture" + end, [picture]) for end in ("?", " now?")
        )
        length = built.codec.inputs(two)["input_ids"].shape[1]
        first, second = (asyncio.run(adecode(p, backend=built, schema=SHORT)) for p in (one, two))
        again = asyncio.run(adecode(one, backend=built, schema=SHORT))
        assert first.usage.images_encoded == 1
        assert second.usage.images_encoded == again.usage.images_encoded == 0
        assert second.usage.prefilled_tokens < length
        assert built.prefixes.hits == 2
        fresh = asyncio.run(adecode(two, backend=backend(name), schema=SHORT))
        assert second.best is not None and fresh.best is not None and second.best.text == fresh.best.text
        assert again.best is not None and first.best is not None and again.best.text == first.best.text


def test_prefix_cache_stays_within_its_bytes(picture: Image.Image) -> None:
    built = backend(prefix_cache_bytes=60_000)
    for i in range(12):
        asyncio.run(adecode(Prompt(f"{i} objects?", [picture.rotate(i)]), backend=built, schema=SHORT))
        assert sum(known.nbytes for known in built.prefixes._known.values()) <= 60_000
    assert 0 < len(built.prefixes._known) < 12


def test_judges_share_the_picture_and_their_rubric(picture: Image.Image) -> None:
    """All comparisons of a round: one picture, and the words before the responses once."""
    built = backend()
    strategy = build("strategies", "stage-beam", {"candidates": 4, "verifier": "self-judge"})
    result = asyncio.run(adecode(Prompt("How many?", [picture]), backend=built, schema=SHORT, strategy=strategy))
    verifier = result.usage_by_part["verifier"]
    assert result.usage.images_encoded == 1
    assert verifier.cached_tokens > verifier.prefilled_tokens / 2


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_long_prompts_are_prefilled_in_chunks_between_steps(
    name: str, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 16 tokens: the same answers, one picture, no hook left, and other rows decode in between."""
    from structdecode.backends.transformers.slots import prefill, requests

    prompts = [
        Prompt("How many objects are there in all of the picture? " * 4 + str(i), [picture.rotate(90 * i)])
        for i in range(3)
    ]
    expected = answers(backend(name), prompts)
    for module in (prefill, requests, scheduler):
        monkeypatch.setattr(module, "CHUNK", 16)
    built = backend(name, max_rows=8)
    decoder = built.model.get_decoder()
    lengths: list[int] = []
    hook = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(
            (kwargs.get("inputs_embeds") if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]).shape[1]
        ),
        with_kwargs=True,
    )
    hooks = len(decoder._forward_pre_hooks)
    assert answers(built, prompts) == expected
    assert len(decoder._forward_pre_hooks) == hooks
    hook.remove()
    if not built.cross_layers:
        assert lengths.count(16) >= 6


def test_rows_of_different_sampling_draw_with_their_own_numbers(picture: Image.Image) -> None:
    """Greedy, warm and filtered rows in one batch, mixed: each writes what it writes alone."""
    samplings = [
        Sampling(temperature=t, top_p=p, top_k=k, max_tokens=12)
        for t, p, k in ((1.0, 1.0, 0), (0.0, 1.0, 0), (1.7, 0.8, 0), (1.0, 1.0, 5), (2.5, 1.0, 0))
    ]
    mixed: list[int] = []
    built = backend()
    draw = built.scheduler._draw

    def watched(rows: Any, logits: Any, uniform: Any) -> Any:
        mixed.append(len({row.sequence.request.sampling for row in rows}))
        return draw(rows, logits, uniform)

    built.scheduler._draw = watched  # type: ignore[method-assign]
    prompt = Prompt("How many?", [picture])

    async def write(sampling: Sampling, seeds: range, own: TransformersBackend) -> list[tuple[int, ...]]:
        async with own.open(prompt) as session:
            rows = [Row(Candidate(), seed, 12) for seed in seeds]
            return [span.token_ids for span in (await session.extend(rows, GenerationRequest(OPEN, sampling))).value]

    async def together() -> list[list[tuple[int, ...]]]:
        return list(
            await asyncio.gather(*(write(s, range(10 * i, 10 * i + 3), built) for i, s in enumerate(samplings)))
        )

    found = asyncio.run(together())
    assert max(mixed) == len(samplings), "the rows were never in one batch"
    alone = [asyncio.run(write(s, range(10 * i, 10 * i + 3), backend(engine="plain"))) for i, s in enumerate(samplings)]
    assert found == alone
    assert len({ids for rows in found for ids in rows}) > len(samplings)


@pytest.mark.parametrize("name", ["mllama", "llava"])
def test_a_text_of_many_chunks_is_read_whole(name: str, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks and more of several rows, of different lengths, between another row's steps."""
    texts = ["one and one is two, and so on and on.", "two", "a red square and a blue circle, one above the other."]

    async def read() -> list[Any]:
        built = backend(name, prefix_cache_bytes=0)
        async with built.open(prompt) as session:
            request = GenerationRequest(OPEN, Sampling(), hidden_layers=(-1,))
            drawn = session.extend([Row(Candidate(), 3, 30)], GenerationRequest(OPEN, Sampling(max_tokens=30)))
            asked = (
                session.force([Candidate()] * 3, texts, request), session.log_probs(texts), drawn,
            )  # fmt: skip
            forced, probabilities, other = (work.value for work in await asyncio.gather(*asked))
            return [*forced, *probabilities, other[0].token_ids]

    whole = asyncio.run(read())
    monkeypatch.setattr(requests, "CHUNK", 4)
    cut = asyncio.run(read())
    assert len(whole[0].token_ids) > 12, "three chunks and more"
    for one, other in zip(cut[:3], whole[:3], strict=True):
        assert one.token_ids == other.token_ids
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert one.hidden_states == pytest.approx(other.hidden_states, abs=1e-3)
    for few, many in zip(cut[3:6], whole[3:6], strict=True):
        assert few == pytest.approx(many, abs=1e-4)
    assert cut[6] == whole[6]
