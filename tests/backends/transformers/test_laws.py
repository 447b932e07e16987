"""The laws of decoding on real architectures, with `model.generate` and the model's own logits as oracles."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.sampling import draw, filtered, uniforms
from structdecode.backends.transformers.slots.attention import text_configs
from structdecode.core.engine import adecode, decode
from structdecode.core.many import decode_many
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Stage
from tests.backends.transformers import tiny

GREEDY = Sampling(temperature=0, max_tokens=40)
OPEN = Stage("ANSWER")


def generate(backend: TransformersBackend, prompt: Prompt, tokens: int) -> list[int]:
    """What the model's own `generate` writes, without its end-of-text token."""
    inputs = backend.codec.inputs(prompt)
    owner = backend.model.model
    with torch.no_grad():
        output = backend.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    if hasattr(owner, "rope_deltas"):
        owner.rope_deltas = None
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    return [token for token in ids if token not in backend.codec.end_of_text]


async def grow(backend: TransformersBackend, prompt: Prompt, lengths: list[int], rows: int = 1) -> Candidate:
    """A greedy answer in pieces of the given lengths, forked into `rows` equal rows each time."""
    async with backend.open(prompt) as session:
        candidate = Candidate()
        for length in lengths:
            work = await session.extend([Row(candidate, 0, length)] * rows, GenerationRequest(OPEN, GREEDY))
            assert len({span.token_ids for span in work.value}) == 1
            candidate = candidate.extended(work.value[-1], rows - 1)
    return candidate


def fed_lengths(backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of tokens of each forward to come."""
    fed: list[int] = []
    forward = backend.forward

    def counted(**inputs: object) -> object:
        ids = inputs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        fed.append(ids.shape[1])
        return forward(**inputs)

    monkeypatch.setattr(backend, "forward", counted)
    return fed


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("lengths", [[40], [5, 7, 11, 17], [1] * 12])
def test_greedy_is_what_generate_writes(
    backend: TransformersBackend, prompt: Prompt, lengths: list[int], rows: int
) -> None:
    expected = generate(backend, prompt, sum(lengths))
    written = list(asyncio.run(grow(backend, prompt, lengths, rows)).token_ids)
    assert len(set(expected)) > 3
    assert written == expected[: len(written)]
    assert len(written) == min(sum(lengths), len(expected))


def test_greedy_holds_for_ragged_branches(backend: TransformersBackend, prompt: Prompt) -> None:
    """Rows with prefixes of different lengths, in one batch, each as if it were alone."""

    async def run() -> list[tuple[int, ...]]:
        async with backend.open(prompt) as session:
            root = Candidate()
            starts = []
            for seed, length in enumerate((2, 5, 9)):
                sampling = Sampling(temperature=1.5, max_tokens=length)
                work = await session.extend([Row(root, seed, length)], GenerationRequest(OPEN, sampling))
                starts.append(root.extended(work.value[0], seed))
            together = await session.extend([Row(c, 0, 12) for c in starts], GenerationRequest(OPEN, GREEDY))
        alone = []
        for candidate in starts:
            async with backend.open(prompt) as session:  # a new session: the branch is computed from nothing
                work = await session.extend([Row(candidate, 0, 12)], GenerationRequest(OPEN, GREEDY))
                alone.append(work.value[0].token_ids)
        assert [span.token_ids for span in together.value] == alone
        return alone

    assert len(set(asyncio.run(run()))) > 1


def test_picture_is_seen(backend: TransformersBackend, prompt: Prompt) -> None:
    blank = Prompt(prompt.question, [Image.new("RGB", (60, 40), "white")])
    assert generate(backend, prompt, 12) != generate(backend, blank, 12)


def test_log_probs_are_the_models_own(backend: TransformersBackend, prompt: Prompt) -> None:
    text = "<CAPTION> a red square"
    ids = backend.codec.encode(text)
    assert len(ids) > 3

    async def run() -> list[list[float]]:
        async with backend.open(prompt) as session:
            return (await session.log_probs([text, "I", text[:12]])).value

    values = asyncio.run(run())
    inputs = backend.codec.inputs(prompt)
    start = inputs["input_ids"].shape[1]
    async_ids = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    extra = {"attention_mask": torch.ones_like(async_ids), "input_ids": async_ids}
    if "cross_attention_mask" in inputs:
        mask = inputs["cross_attention_mask"]
        extra["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, len(ids), -1, -1)], dim=1)
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        extra["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(ids))], dim=1)
    with torch.no_grad():
        logits = backend.model(**{**inputs, **extra}).logits[0, start - 1 : -1].log_softmax(-1)
    if hasattr(backend.model.model, "rope_deltas"):
        backend.model.model.rope_deltas = None
    expected = logits.gather(1, torch.tensor(ids)[:, None]).squeeze(1)
    assert values[0] == pytest.approx(expected.tolist(), abs=1e-4)
    assert values[2] == pytest.approx(values[0][: len(values[2])], abs=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.6, top_p=0.9), Sampling(1.4, top_k=5), Sampling(1.6, top_p=0.9, top_k=8)],
    ids=["plain", "paper", "top-k", "both"],
)
def test_samples_follow_the_models_distribution(sampling: Sampling) -> None:
    """Chi-square of 20,000 draws against transformers' own warpers on a small vocabulary."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(5)) * 1.5
    warped = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    expected = warped.softmax(-1)[0].double().numpy()
    assert filtered(logits, sampling).softmax(-1)[0].numpy() == pytest.approx(expected, abs=1e-6)
    n = 20_000
    generators = [np.random.default_rng(seed) for seed in range(n)]  # as the engine does: a generator a row
    counts = np.bincount(
        draw(logits.expand(n, -1), sampling, uniforms(generators, 1, logits.device)[:, 0])[0].numpy(), minlength=12
    )
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], expected[possible] / expected.sum() * n).pvalue > 1e-3


def test_spans_follow_the_models_distribution(mllama: TransformersBackend, prompt: Prompt) -> None:
    """First tokens of forked rows against the model's own softmax: the whole path, not the sampler alone."""
    n, sampling = 4000, Sampling(0.7, top_k=6, max_tokens=1)

    async def run() -> list[int]:
        async with mllama.open(prompt) as session:
            rows = [Row(Candidate(), seed, 1) for seed in range(n)]
            work = await session.extend(rows, GenerationRequest(OPEN, sampling))
        return [span.token_ids[0] if span.token_ids else -1 for span in work.value]

    counts = Counter(asyncio.run(run()))
    with torch.no_grad():
        logits = mllama.model(**mllama.codec.inputs(prompt)).logits[:, -1].float()
    expected = filtered(logits, sampling).softmax(-1)[0]
    support = [i for i in range(len(expected)) if expected[i] > 0]
    observed = [counts[-1 if i in mllama.codec.end_of_text else i] for i in support]
    assert sum(observed) == n
    weights = expected[support].double()
    assert stats.chisquare(observed, (weights / weights.sum() * n).tolist()).pvalue > 1e-3


def test_prompt_is_prefilled_once_and_picture_encoded_once(backend: TransformersBackend, prompt: Prompt) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    assert backend.tower is not None
    hook = backend.tower.register_forward_pre_hook(count)
    schema = Schema("short", tuple(Stage.tagged(n, sampling=Sampling(max_tokens=6)) for n in ("ONE", "TWO", "THREE")))
    try:
        result = decode(prompt, backend=backend, schema=schema, strategy="stage-beam", seed=1)
    finally:
        hook.remove()
    length = backend.codec.inputs(prompt)["input_ids"].shape[1]
    tags = sum(len(backend.codec.encode(t)) for t in ("<ONE>", "\n\n<TWO>", "\n\n<THREE>"))
    assert result.usage.images_encoded == calls == 1
    assert result.usage.prefilled_tokens == length + tags


def test_judge_sees_the_picture_without_encoding_it_again(backend: TransformersBackend, prompt: Prompt) -> None:
    async def run() -> tuple[int, int, list[float]]:
        async with backend.open(prompt) as session:
            first = await session.log_probs(["I"])
            async with session.open(Prompt("Is it right?", prompt.images)) as judge:
                second = await judge.log_probs(["I", "2"])
            return first.usage.images_encoded, second.usage.images_encoded, [v[0] for v in second.value]

    async def fresh() -> list[float]:
        async with backend.open(Prompt("Is it right?", prompt.images)) as session:
            return [v[0] for v in (await session.log_probs(["I", "2"])).value]

    first, second, values = asyncio.run(run())
    assert (first, second) == (1, 0)
    assert values == pytest.approx(asyncio.run(fresh()), abs=1e-6)


SHORT = Schema(
    "short",
    tuple(Stage.tagged(n, sampling=Sampling(temperature=1.2, max_tokens=8)) for n in ("CAPTION", "CONCLUSION")),
)


def test_same_answer_alone_and_among_many(backend: TransformersBackend, picture: Image.Image) -> None:
    prompts = [Prompt(f"How many objects are there? {i}", [picture] if i % 3 else ()) for i in range(9)]

    async def many(order: list[int]) -> dict[int, str]:
        found = {}
        picked = [prompts[i] for i in order]
        options = {"schema": SHORT, "strategy": "stage-beam", "seed": 4}
        async for at, result in decode_many(picked, backend=backend, sample_ids=list(map(str, order)), **options):
            found[order[at]] = result.best.text if result.best else ""
        return found

    forward = asyncio.run(many(list(range(9))))
    backward = asyncio.run(many(list(range(8, -1, -1))))
    alone = decode(prompts[4], backend=backend, sample_id="4", schema=SHORT, strategy="stage-beam", seed=4)
    assert forward == backward
    assert alone.best is not None and alone.best.text == forward[4]
    assert len(set(forward.values())) == 9


def test_interleaved_sessions_do_not_touch_each_other(backend: TransformersBackend, picture: Image.Image) -> None:
    """Two prompts with pictures of different sizes, stage by stage in turn: mRoPE's state must not leak."""
    wide = Prompt("A wide one?", [picture.resize((160, 56))])
    tall = Prompt("And what of this much taller one?", [picture.resize((56, 160))])

    async def turns() -> list[list[int]]:
        async with backend.open(wide) as one, backend.open(tall) as two:
            grown = [Candidate(), Candidate()]
            for _ in range(3):
                for i, session in enumerate((one, two)):
                    work = await session.extend([Row(grown[i], 0, 5)], GenerationRequest(OPEN, GREEDY))
                    grown[i] = grown[i].extended(work.value[0], 0)
        return [list(c.token_ids) for c in grown]

    for written, prompt in zip(asyncio.run(turns()), (wide, tall), strict=True):
        assert written == generate(backend, prompt, 15)[: len(written)]


def test_borrowed_model_is_given_back_as_it_was(picture: Image.Image) -> None:
    def hooks(model: torch.nn.Module) -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    for name in tiny.ARCHITECTURES:
        model, processor = tiny.build(name)
        generate(TransformersBackend(model, processor), Prompt("?", [picture]), 2)
        existing = hooks(model)  # transformers itself adds some at the first forward
        model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        attention = [c._attn_implementation for c in text_configs(model)]
        config, padding = model.generation_config.to_dict(), processor.tokenizer.padding_side
        backend = TransformersBackend(model, processor)
        decode(Prompt("What is it?", [picture]), backend=backend, schema=SHORT, strategy="best-of-n", seed=1)
        assert model.training
        assert backend.tower is not None and "forward" not in vars(backend.tower)
        assert hooks(model) == existing
        assert [c._attn_implementation for c in text_configs(model)] == attention
        assert getattr(model.model, "rope_deltas", None) is None
        assert (model.generation_config.to_dict(), processor.tokenizer.padding_side) == (config, padding)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_text_only_prompt_leaves_the_caption_out(backend: TransformersBackend) -> None:
    schema = Schema(
        "s",
        tuple(
            Stage(s.name, s.begin, s.end, Sampling(max_tokens=4), needs_image=s.needs_image) for s in LLAVA_O1.stages
        ),
    )
    result = decode(Prompt("What is one and one?"), backend=backend, schema=schema)
    assert list(result.stages) == ["SUMMARY", "REASONING", "CONCLUSION"]
    assert result.usage.images_encoded == 0


def test_several_pictures_and_earlier_turns(mllama: TransformersBackend, picture: Image.Image) -> None:
    from structdecode.core.types import Message

    prompt = Prompt("And now?", [picture, picture.rotate(90)], [Message("user", "Look."), Message("assistant", "Yes.")])
    written = list(asyncio.run(grow(mllama, prompt, [4, 8])).token_ids)
    assert written == generate(mllama, prompt, 12)[: len(written)]
    mllama.prefixes.clear()
    result = asyncio.run(adecode(prompt, backend=mllama, schema=SHORT))
    assert result.usage.images_encoded == 2


@pytest.mark.parametrize(
    "strategy", ["direct", "cot", "staged", "best-of-n", "self-consistency", "stage-beam", "sentence-beam"]
)
def test_no_strategy_computes_the_prompt_twice(
    mllama: TransformersBackend, picture: Image.Image, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that reaches the model's forward only the first is as long as the prompt."""
    fed = fed_lengths(mllama, monkeypatch)
    prompt = Prompt("How many objects are there, if you look at all of the picture? " * 3, [picture])
    built = build("strategies", strategy, {"max_tokens": 6, "temperature": 1.0})
    result = decode(prompt, backend=mllama, strategy=built, seed=2)
    assert result.usage.images_encoded == 1
    assert len(fed) > 3 and fed[0] > 60
    assert max(fed[1:]) < fed[0] / 2


def test_stage_closed_by_force_is_not_computed_again(
    backend: TransformersBackend, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stage that ran out of tokens only its last token, its end tag and the next begin tag are fed."""
    fed = fed_lengths(backend, monkeypatch)
    stages = tuple(Stage(n, f"<{n}>", f"<<never {n}>>", Sampling(max_tokens=40)) for n in "AB")
    decode(prompt, backend=backend, schema=Schema("s", stages), strategy="stage-beam", seed=1)
    assert max(fed[1:]) < 30
