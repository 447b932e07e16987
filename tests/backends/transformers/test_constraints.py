"""What a checkpoint's ``generation_config`` asks for is done as `generate` does it, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.plain.stepwise import StepwiseSession
from structdecode.core.budget import Budget
from structdecode.core.engine import decode
from structdecode.core.errors import ModelError
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.types import Candidate, Prompt, Sampling, Stage
from tests.backends.transformers import tiny
from tests.backends.transformers.test_laws import generate

GREEDY = Sampling(temperature=0, max_tokens=24)
OPEN = Stage("ANSWER")
ASKED: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.8}, "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": list(range(40, 200))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(8, 320))},
    "bad_words_ids": {"bad_words_ids": [[token] for token in range(30, 160)]}, "min_new_tokens": {"min_new_tokens": 20},
    "several": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "suppress_tokens": list(range(60, 120))},
}  # fmt: skip


@pytest.fixture(params=["slots", "plain", "stepwise"])
def bound(request: pytest.FixtureRequest) -> Iterator[TransformersBackend]:
    model, processor = tiny.build("llava")
    backend = TransformersBackend(model, processor, engine="slots" if request.param == "slots" else "plain")
    if request.param == "stepwise":
        backend._session = StepwiseSession
    return backend


@pytest.mark.parametrize("asked", ASKED)
def test_greedy_is_what_generate_writes_under_it(asked: str, bound: TransformersBackend, prompt: Prompt) -> None:
    free = generate(bound, prompt, 24)
    bound.model.generation_config.update(**ASKED[asked])
    expected = generate(bound, prompt, 24)
    assert asked == "min_new_tokens" or expected != free  # it matters here

    async def grow() -> list[Candidate]:
        async with bound.open(prompt) as session:
            first = (await session.extend([Row(Candidate(), 0, 7)] * 2, GenerationRequest(OPEN, GREEDY))).value
            whole = (await session.extend([Row(Candidate(), 0, 24)], GenerationRequest(OPEN, GREEDY))).value
            candidates = [Candidate().extended(span, 0) for span in first]
            rest = (await session.extend([Row(c, 0, 17) for c in candidates], GenerationRequest(OPEN, GREEDY))).value
            return [
                *(c.extended(s, 0) for c, s in zip(candidates, rest, strict=True)),
                Candidate().extended(whole[0], 0),
            ]

    for candidate in asyncio.run(grow()):
        assert list(candidate.token_ids) == expected[: len(candidate.token_ids)] and len(candidate.token_ids) >= len(
            expected
        )


def test_the_trace_says_what_was_asked_for(bound: TransformersBackend, prompt: Prompt) -> None:
    assert (
        "generation_config"
        not in decode(prompt, backend=bound, strategy="direct", budget=Budget(tokens=4)).trace.header
    )
    bound.model.generation_config.repetition_penalty = 1.2
    header = decode(prompt, backend=bound, strategy="direct", budget=Budget(tokens=4)).trace.header
    assert header["generation_config"] == {"repetition_penalty": 1.2}


def test_questions_side_by_side_are_bound_by_their_own_texts(picture: Image.Image) -> None:
    backend = TransformersBackend(*tiny.build("llava"))
    backend.model.generation_config.update(repetition_penalty=1.8, no_repeat_ngram_size=2)
    prompts = [Prompt(f"{word} objects are there?", [picture]) for word in ("How many", "What", "Which red", "No")]

    async def written(prompt: Prompt) -> tuple[int, ...]:
        async with backend.open(prompt) as session:
            return (await session.extend([Row(Candidate(), 0, 20)], GenerationRequest(OPEN, GREEDY))).value[0].token_ids

    async def together() -> list[tuple[int, ...]]:
        return list(await asyncio.gather(*map(written, prompts)))

    assert [list(ids) for ids in asyncio.run(together())] == [generate(backend, prompt, 20) for prompt in prompts]


@pytest.mark.parametrize("setting", [{"guidance_scale": 1.5}, {"forced_eos_token_id": 2}, {"stop_strings": ["User:"]}])
def test_what_is_not_done_is_refused(setting: dict[str, Any]) -> None:
    model, processor = tiny.build("llava")
    model.generation_config.update(**setting)
    with pytest.raises(ModelError, match=next(iter(setting))):
        TransformersBackend(model, processor)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_makes_no_sense_is_a_mistake_in_one_line(when: str, prompt: Prompt) -> None:
    model, processor = tiny.build("llava")
    if when == "before":
        model.generation_config.repetition_penalty = -1.0
    with pytest.raises(
        ModelError, match=r"asks for \{'repetition_penalty': -1.0\}, which transformers refuses \(.*\): "
    ) as caught:
        backend = TransformersBackend(model, processor)
        model.generation_config.repetition_penalty = -1.0
        decode(prompt, backend=backend, strategy="direct")
    assert "\n" not in str(caught.value)
