"""What a strategy may do besides extending and scoring, by both engines: text put in, stages left open, other views."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.sampling import filtered
from structdecode.core.errors import ConfigError, PromptError
from structdecode.core.protocols import Backend, Decoder
from structdecode.core.types import Candidate, Prompt, Ranked, Sampling, Schema, Score, Stage
from structdecode.testing import scripted
from tests.backends.transformers import tiny
from tests.backends.transformers.test_billing import drawn as drawn

FREE = Sampling(temperature=1.3, max_tokens=24)
A, B = (Stage.tagged(name, sampling=FREE) for name in "AB")
SCHEMA = Schema("two", (A, B))
PROMPT = Prompt("What is it?", [Image.new("RGB", (32, 32), "red")])

Steps = Callable[[Decoder], Awaitable[Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["slots", "plain"])
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    return TransformersBackend(*tiny.build("mllama"), engine=request.param)


def run(backend: Backend, steps: Steps, prompt: Prompt = PROMPT, schema: Schema = SCHEMA) -> tuple[Any, sd.Result]:
    """What the steps of a search give, and its result."""
    found: list[Any] = []

    async def search(schema: Schema, decoder: Decoder) -> list[Ranked]:
        found.append(await steps(decoder))
        return [Ranked(decoder.root, Score.unscored("none"))]

    result = sd.decode(prompt, backend=backend, strategy=search, schema=schema)
    return found[0], result


def close(one: Any, other: Any) -> bool:
    return one == pytest.approx(other, abs=2e-4)


# ------------------------------------------------------------------ text put in
def test_what_was_drawn_has_the_same_log_probs_when_it_is_put_in(backend: TransformersBackend) -> None:
    async def steps(decoder: Decoder) -> Any:
        first = await decoder.extend([decoder.root], A, n=3)
        again = await decoder.force([decoder.root] * 3, A, [c.spans[0] for c in first])
        after = await decoder.extend([*first, *again], B, sampling=Sampling(temperature=0, max_tokens=8))
        return first, again, after

    (first, again, after), _ = run(backend, steps)
    for one, other in zip(first, again, strict=True):
        drew, put = one.spans[0], other.spans[0]
        width = len(drew.token_ids)
        assert put.token_ids[:width] == drew.token_ids and put.text == drew.text and put.raw == drew.raw
        assert close(put.log_probs[:width], drew.log_probs) and close(put.certainties[:width], drew.certainties)
        assert set(put.proposal_log_probs) <= {0.0} and put.seed is None and put.closed
    assert [c.spans[1].token_ids for c in after[:3]] == [c.spans[1].token_ids for c in after[3:]]


def test_text_is_closed_and_billed_as_prompt(backend: TransformersBackend) -> None:
    async def steps(decoder: Decoder) -> Any:
        closed = await decoder.force([decoder.root], A, [" a red square "])
        open_ = await decoder.force([decoder.root], A, ["a red"], leave_open=True)
        rest = await decoder.force(open_, A, [" square"])
        return closed[0], open_[0], rest[0]

    (closed, open_, rest), result = run(backend, steps)
    assert closed.stages == {"A": "a red square"} and closed.text == "<A> a red square </A>" and closed.valid
    assert open_.open_stage == "A" and rest.stages == {"A": "a red square"} and rest.open_stage is None
    forced = sum(len(c.spans[-1].token_ids) for c in (closed, open_, rest))
    assert result.usage.generated_tokens == 0 and result.usage.prefilled_tokens >= forced


def test_wrong_texts_are_refused(backend: TransformersBackend) -> None:
    wrong = ([], [""], [()], ["a</A> b"], [[10**9]], [[-1]], [[1.5]], [["a"]])
    for texts, error in (*((texts, ConfigError) for texts in wrong), (["a" * 100_000], PromptError)):

        async def steps(decoder: Decoder, texts: Any = texts) -> Any:
            return await decoder.force([decoder.root], A, texts)

        with pytest.raises(error):
            run(backend, steps)


@pytest.mark.parametrize("leave_open", [False, True])
def test_text_behind_the_end_is_refused_in_the_same_words_without_a_model(
    backend: TransformersBackend, leave_open: bool
) -> None:
    async def put(decoder: Decoder, text: str) -> str:
        return (await decoder.force([decoder.root], A, [text], leave_open=leave_open))[0].text

    for each in (backend, ScriptedBackend(scripted)):
        with pytest.raises(ConfigError, match=r"^the text put in for 'A' continues behind '</A>': ' b'$"):
            run(each, partial(put, text="a</A> b"))
        assert run(each, partial(put, text=" a</A>"))[0] == "<A> a</A>"
        assert run(each, partial(put, text=" a"))[0] == ("<A> a" if leave_open else "<A> a</A>")


# ------------------------------------------------------------------ left open
@pytest.mark.parametrize("seed", range(4))
def test_a_stage_written_token_by_token_is_the_stage_written_at_once(backend: TransformersBackend, seed: int) -> None:
    """Byte by byte: letters and end tags are in the tokens of several spans."""
    text = ["Größe: ≤ 3 ", "x < y </ z ", "ends ", "日本 "][seed]
    stop = backend.codec.encode(f"{text}</A>")

    async def steps(decoder: Decoder) -> Any:
        whole = (await decoder.force([decoder.root], A, [stop]))[0]
        parts = [decoder.root]
        for token in whole.spans[0].token_ids:
            parts = await decoder.force(parts, A, [(token,)], leave_open=True)
            if parts[0].open_stage is None:
                break
        greedy = Sampling(temperature=0, max_tokens=12)
        free = await decoder.extend([decoder.root], B, sampling=greedy, leave_open=True)
        stepped = [decoder.root]
        for _ in range(12):
            one = Sampling(temperature=0, max_tokens=1)
            stepped = await decoder.extend(stepped, B, sampling=one, leave_open=True)
        return whole, parts[0], free[0], stepped[0]

    (whole, parts, free, stepped), _ = run(backend, steps, schema=Schema("another", (Stage.tagged("C"),)))
    assert parts.stages == whole.stages == {"A": text.strip()}
    assert parts.token_ids == whole.token_ids and parts.valid and parts.open_stage is None
    assert stepped.token_ids == free.token_ids and stepped.open_stage == free.open_stage == "B"
    assert stepped.stages == free.stages


def test_next_tokens_are_what_greedy_decoding_takes(backend: TransformersBackend) -> None:
    async def steps(decoder: Decoder) -> Any:
        one = Sampling(temperature=0, max_tokens=1)
        taken, told, at = [], [], [decoder.root]
        for _ in range(6):
            told.append((await decoder.next_tokens(at, A, 5))[0])
            at = await decoder.extend(at, A, sampling=one, leave_open=True)
            taken.append(at[0].spans[-1])
        return taken, told

    (taken, told), _ = run(backend, steps)
    for span, tokens in zip(taken, told, strict=True):
        assert tokens[0].id == span.token_ids[0] and close(tokens[0].log_prob, span.log_probs[0])
        assert [t.log_prob for t in tokens] == sorted((t.log_prob for t in tokens), reverse=True)


# ------------------------------------------------------------------ what was drawn from
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0), Sampling(0.5), Sampling(1.5, top_k=4), Sampling(0.8, top_p=0.7)]
)
def test_proposals_are_the_probabilities_of_what_was_drawn_from(
    backend: TransformersBackend, sampling: Sampling
) -> None:
    size = backend.model.config.get_text_config().vocab_size

    async def steps(decoder: Decoder) -> Any:
        tokens = (await decoder.next_tokens([decoder.root], A, size))[0]
        one = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, 1)
        return tokens, await decoder.extend([decoder.root], A, n=12, sampling=one, leave_open=True)

    (tokens, grown), _ = run(backend, steps)
    logits = torch.full((1, size), -torch.inf)
    for token in tokens:
        logits[0, token.id] = token.log_prob
    expected = None if sampling.greedy else filtered(logits, sampling).log_softmax(-1)[0]
    for candidate in grown:
        span = candidate.spans[0]
        (token,) = span.token_ids or (None,)
        if token is not None:
            assert close(span.proposal_log_probs[0], 0.0 if expected is None else expected[token].item())
            assert close(span.log_probs[0], logits[0, token].item())


def own_forward(backend: TransformersBackend, candidate: Candidate, prompt: Prompt = PROMPT, **more: Any) -> Any:
    """What the model itself makes of the prompt and all of a candidate, at once; and where the candidate begins."""
    inputs = backend.codec.inputs(SCHEMA.ask(prompt))
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([candidate.token_ids], dtype=torch.long)], dim=1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "cross_attention_mask" in inputs:
        seen = inputs["cross_attention_mask"]
        inputs["cross_attention_mask"] = torch.cat([seen, seen[:, -1:].expand(-1, ids.shape[1] - length, -1, -1)], 1)
    with torch.inference_mode():
        return backend.model(**inputs, **more), length


def test_what_is_put_before_a_stage_has_log_probs_where_they_are_asked_for(backend: TransformersBackend) -> None:
    """Of a begin tag at the root, behind a stage that closed itself or was closed, behind text, known before or not."""
    short = Sampling(temperature=1.3, max_tokens=3)

    async def steps(decoder: Decoder, asked: bool) -> Any:
        first = await decoder.extend([decoder.root], A, n=2, sampling=short, prefix_log_probs=asked)
        put = await decoder.force([decoder.root], A, ["red"], prefix_log_probs=asked)
        before = decoder._meter.usage.prefilled_tokens  # type: ignore[attr-defined]
        second = await decoder.extend([*first, *put], B, n=2, prefix_log_probs=asked)
        paid = decoder._meter.usage.prefilled_tokens - before  # type: ignore[attr-defined]
        again = await decoder.extend([*first, *put], B, prefix_log_probs=True)
        (open_,) = await decoder.extend([decoder.root], A, sampling=short, leave_open=True)
        on = await decoder.extend([open_], A, prefix_log_probs=True)
        late = [c async for c in decoder.as_finished(put, B, prefix_log_probs=asked)]
        return [*first, *put, *second, *late], paid, again, on

    (told, paid, again, on), _ = run(backend, partial(steps, asked=True))
    (untold, unpaid, again_later, _), _ = run(backend, partial(steps, asked=False))
    assert [c.token_ids for c in told] == [c.token_ids for c in untold] and paid == unpaid > 0
    assert not any(span.prefix_log_probs for c in untold for span in c.spans)
    assert [c.spans[-1].finish_reason for c in told[:2]] == ["length"] * 2 and on[0].spans[-1].prefix_log_probs == ()
    for candidate in (*told, *again, *again_later):
        output, at = own_forward(backend, candidate)
        at += len(candidate.token_ids) - len(candidate.spans[-1].all_ids)
        span = candidate.spans[-1]
        expected = output.logits[0, at - 1 :].float().log_softmax(-1)[range(len(span.prefix_ids)), span.prefix_ids]
        assert len(span.prefix_ids) > 1 and close(span.prefix_log_probs, tuple(expected.tolist()))


def test_hidden_states_at_the_ends_of_spans_are_the_models_own(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stage that closed itself, was closed, was left open and continued, or was put in."""
    short, layers = Sampling(temperature=1.3, max_tokens=3), (0, 2, -1)
    asked_of_model: list[bool] = []
    forward = TransformersBackend.forward

    def listening(self: TransformersBackend, **inputs: Any) -> Any:
        asked_of_model.append("output_hidden_states" in inputs)
        return forward(self, **inputs)

    monkeypatch.setattr(TransformersBackend, "forward", listening)

    async def steps(decoder: Decoder, layers: tuple[int, ...]) -> Any:
        more: dict[str, Any] = {"hidden_layers": layers}
        first = await decoder.extend([decoder.root], A, n=2, sampling=short, **more)
        put = await decoder.force([decoder.root] * 2, A, ["red", [3, *backend.codec.end_of_text]], **more)
        second = await decoder.extend([*first, *put], B, n=2, **more)
        open_ = await decoder.extend([decoder.root], A, sampling=short, leave_open=True, **more)
        on = await decoder.extend(open_, A, **more)
        late = [c async for c in decoder.as_finished(put, B, **more)]
        return sorted([*first, *put, *second, *open_, *on, *late], key=lambda c: c.path)

    backend.prefixes.clear()
    told, result = run(backend, partial(steps, layers=layers))
    calls, asked = len(asked_of_model), sum(asked_of_model)
    backend.prefixes.clear()
    untold, free = run(backend, partial(steps, layers=()))
    assert asked > 0 and not any(asked_of_model[calls:]), "it costs nothing where nobody asks"
    assert [c.token_ids for c in told] == [c.token_ids for c in untold]
    assert not [c for c in untold if c.spans[-1].hidden_states is not None]
    assert result.usage.prefilled_tokens <= free.usage.prefilled_tokens, "what is known at an end is not computed twice"
    bills = [replace(each.usage, seconds=0.0, cached_tokens=0, prefilled_tokens=0) for each in (result, free)]
    assert bills[0] == bills[1]
    assert {c.spans[-1].finish_reason for c in told} >= {"length", "invalid"}
    for candidate in told:
        output, _ = own_forward(backend, candidate, output_hidden_states=True)
        expected = torch.stack([output.hidden_states[layer][0, -1] for layer in layers]).numpy()
        found = candidate.spans[-1].hidden_states
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        assert candidate.spans[-1].hidden_layers == layers
        assert np.abs(found - expected).max() < 2e-4


@pytest.mark.parametrize("layer", [9, -9, True, 1.0, "1"])
def test_a_layer_that_is_not_there_is_named(backend: TransformersBackend, layer: Any) -> None:
    async def steps(decoder: Decoder) -> Any:
        return await decoder.extend([decoder.root], A, hidden_layers=(0, layer))

    with pytest.raises(ConfigError, match=f"hidden_layers: {layer!r} is none of the model's: 0"):
        run(backend, steps)


class Never:
    """Forbids what its row wrote before: so it has to see its own row's tokens, one after the other."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids[0].tolist())
        assert len(self.seen) < 2 or self.seen[-1][:-1] == self.seen[-2]
        logits[0, ids[0]] = -torch.inf
        return logits


def test_each_row_has_processors_of_its_own(backend: TransformersBackend) -> None:
    made: list[Never] = []

    def make() -> Never:
        made.append(Never())
        return made[-1]

    async def steps(decoder: Decoder) -> Any:
        bound = decoder.extend([decoder.root], A, n=3, processors=[make])
        free = decoder.extend([decoder.root], A, n=2)
        return await asyncio.gather(bound, free)

    ((bound, _), _) = run(backend, steps)
    assert len(made) == 3 and all(row.seen for row in made)
    for candidate in bound:
        ids = candidate.spans[0].token_ids
        assert len(set(ids)) == len(ids) > 1


# ------------------------------------------------------------------ other views
def test_a_view_is_what_a_search_on_that_prompt_is(backend: TransformersBackend) -> None:
    one, other = (Prompt("What colour is it?", [Image.new("RGB", (32, 32), c)]) for c in ("green", "yellow"))

    async def here(decoder: Decoder) -> Any:
        drawn = (await decoder.extend([decoder.root], A))[0]
        async with decoder.view(other) as view:
            assert view.prompt == other and view.root == Candidate()
            forced = (await view.force([view.root], A, [drawn.spans[0]]))[0]
            grown = await view.extend([drawn], B, sampling=Sampling(temperature=0, max_tokens=6))
        return drawn, forced, grown[0]

    async def there(decoder: Decoder) -> Any:
        return (await decoder.force([decoder.root], A, [drawn.spans[0]]))[0]

    (drawn, forced, grown), result = run(backend, here, one)
    fresh, _ = run(backend, there, other)
    assert close(forced.spans[0].log_probs, fresh.spans[0].log_probs)
    width = len(drawn.spans[0].log_probs)
    assert not close(forced.spans[0].log_probs[:width], drawn.spans[0].log_probs)
    assert grown.spans[0] == drawn.spans[0] and grown.path == (*drawn.path, 0)
    assert result.usage.images_encoded == 2
    assert [e["images"] for e in result.trace.events if e["kind"] == "view"] == [[other.images[0].digest]]


# ------------------------------------------------------------------ searches inside a search
def test_what_a_sibling_keeps_is_not_freed(backend: TransformersBackend) -> None:
    async def steps(decoder: Decoder) -> Any:
        session = decoder._session  # type: ignore[attr-defined]
        roots = await decoder.extend([decoder.root], A, n=2)
        left, right = (decoder.at(root) for root in roots)
        assert left.root is roots[0] and left.rng.random() != right.rng.random()
        one, two = await left.extend([left.root], B, n=2), await right.extend([right.root], B, n=2)
        left.keep([])
        held = [c for c in two if (*c.token_ids,) in session.branches or c.spans[-1].suffix_ids]
        assert len(held) == 2, "the sibling's are still there"
        inner = left.at(one[0])
        assert inner.root is one[0]
        decoder.keep([])
        kept = set(session.branches)
        return kept, [c.token_ids for c in (*roots, *one, *two)]

    (kept, ids), _ = run(backend, steps)
    assert not kept & set(ids), "the search outside frees all"


def test_the_same_place_has_the_same_numbers(backend: TransformersBackend) -> None:
    async def steps(decoder: Decoder) -> Any:
        grown = await decoder.extend([decoder.root], A, n=2)
        return [decoder.at(c).rng.random() for c in grown]

    assert run(backend, steps)[0] == run(backend, steps)[0]


# ------------------------------------------------------------------ as they finish
def test_children_come_as_they_end_and_the_rest_is_cancelled_and_billed(
    backend: TransformersBackend, drawn: list[int]
) -> None:
    long = Sampling(temperature=1.0, max_tokens=60)

    async def whole(decoder: Decoder) -> Any:
        found = await decoder.extend([decoder.root], A, n=4, sampling=long)
        return found

    async def each(decoder: Decoder) -> Any:
        return [c async for c in decoder.as_finished([decoder.root], A, n=4, sampling=long)]

    async def first(decoder: Decoder) -> Any:
        async with aclosing(decoder.as_finished([decoder.root], A, n=4, sampling=long)) as children:
            async for child in children:
                return child

    together, all_of_them = run(backend, whole)[0], run(backend, each)[0]
    assert sorted(c.path for c in all_of_them) == [c.path for c in together]
    assert {c.path: c.token_ids for c in all_of_them} == {c.path: c.token_ids for c in together}
    drawn.clear()
    child, result = run(backend, first)
    assert child in together or child.token_ids in {c.token_ids for c in together}
    assert result.usage.generated_tokens == len(drawn)


# ------------------------------------------------------------------ what goes wrong
def _all_forbidden(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.full_like(logits, -torch.inf)


def _of_another_shape(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return logits[0]


def _nothing(ids: torch.Tensor, logits: torch.Tensor) -> None:
    return None


def _raises(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("no such grammar")


@pytest.mark.parametrize("processor", [_all_forbidden, _of_another_shape, _nothing, _raises])
def test_a_processor_that_fails_ends_its_own_search_alone(backend: TransformersBackend, processor: Any) -> None:
    def search(processors: Any) -> Any:
        async def steps(schema: Schema, decoder: Decoder) -> list[Ranked]:
            grown = await decoder.extend([decoder.root], A, n=2, processors=processors)
            return [Ranked(c, Score(0.0)) for c in grown]

        return steps

    async def both() -> Any:
        searches = [search([lambda: processor]), *[search([])] * 3]
        asked = [sd.adecode(PROMPT, backend=backend, strategy=s, schema=SCHEMA, seed=1) for s in searches]
        return await asyncio.gather(*asked, return_exceptions=True)

    failed, *others = asyncio.run(both())
    assert isinstance(failed, sd.StructdecodeError) and "a logits processor failed" in str(failed), failed
    expected = sd.decode(PROMPT, backend=backend, strategy=search([]), schema=SCHEMA, seed=1)
    assert [[c.candidate for c in other.candidates] for other in others]
    for other in others:
        assert [r.candidate.token_ids for r in other.candidates] == [r.candidate.token_ids for r in expected.candidates]


def test_what_is_computed_anew_is_billed(backend: TransformersBackend) -> None:
    other = Prompt("What colour is it?", [Image.new("RGB", (32, 32), "purple")])

    async def steps(decoder: Decoder) -> Any:
        (first,) = await decoder.extend([decoder.root], A)
        (second,) = await decoder.extend([first], B)
        async with decoder.view(other) as view:
            await view.next_tokens([view.root], A, 1)  # the prompt is there
            before = decoder._meter.usage.prefilled_tokens  # type: ignore[attr-defined]
            await view.next_tokens([second], B, 1)
            anew = decoder._meter.usage.prefilled_tokens - before  # type: ignore[attr-defined]
        decoder.keep([])
        before = decoder._meter.usage.prefilled_tokens  # type: ignore[attr-defined]
        await decoder.next_tokens([second], B, 1)
        return second, anew, decoder._meter.usage.prefilled_tokens - before  # type: ignore[attr-defined]

    (second, in_view, after_keep), _ = run(backend, steps)
    assert in_view >= len(second.token_ids) and after_keep >= len(second.token_ids)


def test_a_view_answers_no_other_question_and_ends_with_its_context(backend: TransformersBackend) -> None:
    async def spent(schema: Schema, decoder: Decoder) -> list[Ranked]:
        await decoder.extend([decoder.root], A)
        async with decoder.view(Prompt("Another question?")) as view:
            (one,) = await view.extend([view.root], A)
            await view.extend([one], B)
            while True:
                await view.extend([one], B, n=8)

    result = sd.decode(PROMPT, backend=backend, strategy=spent, schema=SCHEMA, budget={"tokens": 200})
    assert result.stopped_by == "tokens" and result.best is not None and list(result.best.stages) == ["A"]

    async def left(decoder: Decoder) -> Any:
        async with decoder.view(Prompt("Another question?")) as view:
            pass
        await view.extend([view.root], A)

    with pytest.raises(sd.StructdecodeError, match="was left"):
        run(backend, left)


def test_a_trace_of_tokens_has_the_text_and_log_probability_of_each(backend: TransformersBackend) -> None:
    strategy = sd.build("strategies", "best-of-n", {"n": 3, "verifier": "log-prob"})
    trace = sd.decode(PROMPT, backend=backend, schema=SCHEMA, strategy=strategy, trace_tokens=True).trace
    events = [event for event in trace.events if event["kind"] == "candidate"]
    assert len(events) == 6
    for event in events:
        assert len(event["token_texts"]) == len(event["token_log_probs"]) == event["tokens"]
        assert sum(event["token_log_probs"]) == pytest.approx(event["log_prob"], abs=1e-4 * event["tokens"])
        assert event["text"] in "".join(event["token_texts"])
    ids = backend.codec.encode("naïve 字 😀 red")
    assert "".join(backend.token_texts(ids)) == backend.codec.decode(ids) and len(backend.token_texts(ids)) == len(ids)
    assert not any("\ufffd" in text for text in backend.token_texts(ids))
