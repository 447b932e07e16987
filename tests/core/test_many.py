"""Many prompts by one driver, settings of their own, and a search's events as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError, PromptError
from structdecode.pocket import checkpoint_path
from structdecode.testing import scripted

BACKEND = ScriptedBackend(scripted)
QUESTIONS = [f"How many are there of {i}?" for i in range(12)]


def collected(prompts: Any, **options: Any) -> dict[int, sd.Result]:
    async def run() -> dict[int, sd.Result]:
        return {index: result async for index, result in sd.decode_many(prompts, backend=BACKEND, **options)}

    return asyncio.run(run())


def alone(question: str, index: int, **options: Any) -> sd.Result:
    return sd.decode(question, backend=BACKEND, sample_id=str(index), **options)


def contents(results: dict[int, sd.Result]) -> list[Any]:
    return [[(r.candidate.content, r.paths) for r in results[i].candidates] for i in sorted(results)]


async def _later(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_lists_generators_and_async_iterators_give_the_same(concurrency: int) -> None:
    settings: dict[str, Any] = {"strategy": "best-of-n", "seed": 4}
    expected = contents({i: alone(q, i, **settings) for i, q in enumerate(QUESTIONS)})
    for prompts in (QUESTIONS, (q for q in QUESTIONS), _later(list(QUESTIONS)), [sd.Prompt(q) for q in QUESTIONS]):
        assert contents(collected(prompts, concurrency=concurrency, **settings)) == expected


def test_what_is_not_said_is_as_decode_has_it() -> None:
    assert contents(collected(QUESTIONS[:2])) == contents({i: alone(q, i) for i, q in enumerate(QUESTIONS[:2])})


def test_each_task_has_its_own_settings() -> None:
    tasks = [
        sd.Task("one?", strategy="direct"), sd.Task(sd.Prompt("two?"), sample_id="x", seed=7),
        sd.Task("three?", budget={"tokens": 5}), sd.Task("four?", schema="direct"), "five?",
    ]  # fmt: skip
    found = collected(tasks, seed=1)
    assert list(found[0].stages) == ["ANSWER"] and list(found[3].stages) == ["ANSWER"]
    assert found[1].seed == 7 and found[1].trace.header["sample_id"] == "x" and found[4].seed == 1
    assert found[2].stopped_by == "tokens" and found[4].stopped_by is None
    assert contents({0: found[1]}) == contents({0: sd.decode("two?", backend=BACKEND, sample_id="x", seed=7)})


def test_prompts_are_taken_as_they_are_needed_and_no_more() -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(len(taken))
            yield f"question {len(taken)}"

    async def run() -> int:
        got = 0
        async with aclosing(sd.decode_many(endless(), backend=BACKEND, concurrency=4)) as stream:
            async for _ in stream:
                got += 1
                await asyncio.sleep(0.01)
                if got == 10:
                    break
        return got

    got = asyncio.run(run())
    assert got == 10 and len(taken) <= got + 2 * 4
    after = len(taken)
    assert after == len(taken)


def test_what_is_wrong_with_one_costs_itself_alone_and_what_is_wrong_with_all_ends_it() -> None:
    found = collected(["good?", "", 3, "too?"])
    assert [bool(found[i].error) for i in range(4)] == [False, True, True, False]
    assert "the question is empty" in found[1].error and "a prompt is a Prompt" in found[2].error
    for options, words in (
        ({"strategy": "nonsense"}, "nonsense"), ({"concurrency": 0}, "concurrency"), ({"seed": 1.5}, "seed"),
        ({"sample_ids": ["a"]}, r"more prompts than sample ids \(1\)"),
        ({"sample_ids": "ab"}, "sample_ids must be a list or another iterable, one for each result, not 'ab'"), ({"budget": {"tokns": 3}}, "unknown limit 'tokns'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            collected(["one?", "two?"], **options)

    def broken() -> Iterator[str]:
        yield "one?"
        raise ZeroDivisionError("the list of questions is damaged")

    with pytest.raises(ZeroDivisionError):
        collected(broken())
    assert collected([]) == {} and collected(iter(())) == {}


def test_what_was_not_asked_says_what_it_was() -> None:
    class Full:
        name = "full"

        def open(self, prompt: sd.Prompt) -> Any:
            raise PromptError("too long")

    async def run() -> list[tuple[int, sd.Result]]:
        tasks = [sd.Task(sd.Prompt("long?"), sample_id="x", seed=5)]
        return [found async for found in sd.decode_many(tasks, backend=Full())]

    [(_, told)] = asyncio.run(run())
    header = told.trace.header
    assert (header["question"], header["sample_id"], header["seed"], told.seed) == ("long?", "x", 5, 5)
    assert told.error == "too long" and told.best is None and told.answer == ""


# ------------------------------------------------------------------ what may be given
def test_a_text_a_mapping_and_a_path_will_do() -> None:
    result = sd.decode("What colour is the circle?", backend=str(checkpoint_path()), budget={"tokens": 6})
    assert result.trace.header["question"] == "What colour is the circle?"
    assert 0 < result.usage.generated_tokens <= 6 and result.stopped_by == "tokens"
    assert sd.decode("?", backend=Path(checkpoint_path()), strategy="direct").answer
    for wrong in ("", "  "):
        with pytest.raises(PromptError, match="empty"):
            sd.decode(wrong, backend=BACKEND)
    with pytest.raises(sd.StructdecodeError, match="nowhere"):
        sd.decode("?", backend="nowhere/at/all")
    with pytest.raises(ConfigError, match="a checkpoint's path"):
        sd.decode("?", backend=3)  # type: ignore[arg-type]


# ------------------------------------------------------------------ events
def test_the_stream_of_events_is_the_trace() -> None:
    async def run() -> list[Any]:
        heard = [e async for e in sd.astream("How many?", backend=BACKEND, strategy="stage-beam", seed=2)]
        return [event for event in heard if event["kind"] != "stage"]  # told, and kept in no trace

    events = asyncio.run(run())
    trace = sd.decode("How many?", backend=BACKEND, strategy="stage-beam", seed=2).trace.events

    def plain(events: list[Any]) -> list[Any]:
        return [{k: v for k, v in e.items() if "usage" not in k} for e in events]

    assert plain(events) == plain(trace) and events[-1]["kind"] == "result"
    with pytest.raises(ConfigError, match="nonsense"):
        asyncio.run(anext_of("nonsense"))


def test_a_stream_is_told_what_decode_is_told() -> None:
    async def last(**options: Any) -> Any:
        return [event async for event in sd.astream("How many?", backend=BACKEND, **options)][-1]

    for options in ({}, {"seed": 3, "sample_id": "x", "strategy": "best-of-n"}):
        told, expected = asyncio.run(last(**options)), sd.decode("How many?", backend=BACKEND, **options)  # type: ignore[arg-type]
        assert (
            told["answer"] == expected.answer and told["usage"]["generated_tokens"] == expected.usage.generated_tokens
        )
    with pytest.raises(ConfigError, match="tokens must be true or false, not 1"):
        asyncio.run(last(tokens=1))


async def anext_of(strategy: str) -> Any:
    return await anext(sd.astream("How many?", backend=BACKEND, strategy=strategy))


def test_who_stops_listening_ends_the_search() -> None:
    ended: list[str] = []

    class Slow:
        async def __call__(self, schema: Any, decoder: Any) -> Any:
            try:
                await decoder.extend([decoder.root], schema.stages[0])
                await asyncio.sleep(60)
            finally:
                ended.append("ended")

    async def run() -> None:
        async with aclosing(sd.astream("How many?", backend=BACKEND, strategy=Slow())) as events:
            assert (await anext(events))["kind"] == "stage"

    asyncio.run(run())
    assert ended == ["ended"]
