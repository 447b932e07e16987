"""What a decoder passes on and what it lets go, call by call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend, _ScriptedSession
from structdecode.core.errors import ConfigError
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Score, Stage, rank

SCHEMA = Schema("two", (Stage.tagged("A"), Stage.tagged("B")))
BACKEND = ScriptedBackend(lambda prompt, prefix, stage, seed: f"one. two. {seed % 7}{stage.end}")


def searched(search: Any, backend: Any = BACKEND, **options: Any) -> Any:
    """What a search sees, told by itself."""
    told: list[Any] = []

    async def strategy(schema: Schema, decoder: Any) -> Any:
        told.append(await search(schema, decoder))
        made = await decoder.extend([decoder.root], schema.stages[0])
        return rank(made, [Score(0.0)])

    sd.decode(Prompt("?"), backend=backend, schema=SCHEMA, strategy=strategy, **options)
    return told[0]


async def finished(decoder: Any, *args: Any, **options: Any) -> list[Candidate]:
    async with aclosing(decoder.as_finished(*args, **options)) as stream:
        return sorted([child async for child in stream], key=lambda c: c.path)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"n": 3}, {"stops": (".",)}, {"leave_open": True, "sampling": Sampling(max_tokens=4)}, {"prefix_log_probs": True},
        {"leave_open": False, "sampling": Sampling(max_tokens=4)},
    ],
)  # fmt: skip
def test_continuations_as_they_finish_are_those_of_extend(options: dict[str, Any]) -> None:
    async def streamed(schema: Schema, decoder: Any) -> list[Candidate]:
        return await finished(decoder, [decoder.root], schema.stages[0], **options)

    async def together(schema: Schema, decoder: Any) -> Sequence[Candidate]:
        return await decoder.extend([decoder.root], schema.stages[0], **options)  # type: ignore[no-any-return]

    found = searched(streamed)
    assert found == searched(together) and len(found) == options.get("n", 1)
    assert bool(found[0].spans[0].prefix_log_probs) == options.get("prefix_log_probs", False)


def test_requests_are_passed_on_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    extend = _ScriptedSession.extend

    async def seen(self: Any, rows: Any, request: Any, **more: Any) -> Any:
        asked.append((rows, request))
        return await extend(self, rows, request, **more)

    monkeypatch.setattr(_ScriptedSession, "extend", seen)

    async def search(schema: Schema, decoder: Any) -> None:
        options = {
            "stops": (".",),
            "leave_open": True,
            "processors": (dict,),
            "prefix_log_probs": True,
            "hidden_layers": (2,),
        }
        await decoder.extend([decoder.root], schema.stages[0], **options)
        await finished(decoder, [decoder.root], schema.stages[0], **options)
        await decoder.extend([decoder.root], schema.stages[0])

    searched(search)
    told = [(r.stops, r.leave_open, r.processors, r.prefix_log_probs, r.hidden_layers) for _, r in asked]
    assert told[:2] == [((".",), True, (dict,), True, (2,))] * 2 and told[2] == ((), False, (), False, ())
    assert [row.path for rows, _ in asked for row in rows] == [(0,), (1,), (2,), (3,)]


def test_a_search_inside_frees_nothing_that_another_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[tuple[int, ...]] = []
    monkeypatch.setattr(_ScriptedSession, "release", lambda self, dropped: freed.extend(c.token_ids for c in dropped))
    same = ScriptedBackend(lambda *_: "same</A>")

    async def search(schema: Schema, decoder: Any) -> Any:
        (ours,) = await decoder.extend([decoder.root], schema.stages[0])
        inside, sibling = decoder.at(decoder.root), decoder.at(decoder.root)
        (theirs,) = await inside.extend([inside.root], schema.stages[0])
        assert theirs.token_ids == ours.token_ids and theirs.path != ours.path
        inside.keep([])
        assert freed == [], "the search outside holds the same"
        await sibling.extend([sibling.root], schema.stages[0])
        decoder.keep([ours])
        assert freed == []
        decoder.keep([])
        return ours.token_ids

    ids = searched(search, same)
    assert set(freed) == {ids}, "with all gone it is freed"


def test_random_choices_depend_on_the_place_alone() -> None:
    async def draws(schema: Schema, decoder: Any) -> list[float]:
        (child,) = await decoder.extend([decoder.root], schema.stages[0])
        places = [decoder, decoder.at(decoder.root), decoder.at(child), decoder.at(decoder.root)]
        return [float(place.rng.random()) for place in places]

    found = searched(draws)
    assert found == searched(draws) != searched(draws, seed=1)
    assert found[1] == found[3] and len(set(found)) == 3


def test_who_stops_listening_leaves_nothing_behind() -> None:
    async def search(schema: Schema, decoder: Any) -> int:
        async with aclosing(decoder.as_finished([decoder.root], schema.stages[0], n=4)) as stream:
            async for _ in stream:
                break
        return len(asyncio.all_tasks())

    async def nothing(schema: Schema, decoder: Any) -> int:
        return len(asyncio.all_tasks())

    assert searched(search) == searched(nothing)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda s, d: d.force([d.root], s.stages[0], ["a", "b"]), "^1 candidates, but 2 texts to put in$"),
        (lambda s, d: d.force([d.root], s.stages[0], [""]), "^stage 'A': there is no text to put in$"),
        (lambda s, d: d.force([d.root], s.stages[0], [()]), "^stage 'A': there is no text to put in$"),
        (lambda s, d: d.next_tokens([d.root], s.stages[0], 0), "^k must be a whole number from 1 to 1,000,000, not 0$"),
        (lambda s, d: d.extend([d.root], s.stages[0], n=0), "^n must be a whole number from 1 to 1,000,000, not 0$"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(ask: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        searched(ask)


def test_what_is_put_in_has_log_probabilities_of_its_begin_tag_where_asked() -> None:
    async def search(schema: Schema, decoder: Any) -> Any:
        (plain,) = await decoder.force([decoder.root], schema.stages[0], ["x"])
        (told,) = await decoder.force([decoder.root], schema.stages[0], ["x"], prefix_log_probs=True)
        (again,) = await decoder.force([decoder.root], schema.stages[0], [plain.spans[0]])
        assert again.spans[0].raw == plain.spans[0].raw
        return plain.spans[0].prefix_log_probs, told.spans[0].prefix_log_probs

    assert searched(search) == ((), (-1.0,) * len("<A>"))


class _Spends:
    """Grows candidates to a stage each and spends the rest of the budget before any is finished."""

    def __init__(self, *stages: str) -> None:
        self.stages = stages

    async def __call__(self, schema: Schema, decoder: Any) -> Any:
        (one, other) = await decoder.extend([decoder.root], schema.stages[0], n=2)
        if "B" in self.stages:
            await decoder.extend([other], schema.stages[1], sampling=Sampling(max_tokens=1))
        await decoder.score(sd.build("verifiers", "rule", {"pattern": "one"}), [one, other])
        while True:
            await decoder.extend([decoder.root], schema.stages[0], sampling=Sampling(max_tokens=1))


@pytest.mark.parametrize("finished", [False, True])
def test_what_a_spent_budget_leaves_got_furthest(finished: bool) -> None:
    """Candidates that end where the search was cut: those with most stages, the finished ones where there are any."""
    schema = Schema("three", (Stage.tagged("A"), Stage.tagged("B"), Stage.tagged("C")))
    strategy = _Spends("A", "B")
    result = sd.decode(
        Prompt("?"),
        backend=BACKEND,
        schema=SCHEMA if finished else schema,
        strategy=strategy,
        budget={"model_calls": 5},
    )
    assert result.stopped_by == "model_calls" and result.candidates
    assert {tuple(ranked.candidate.stages) for ranked in result.candidates} == {("A", "B")}
    shallow = sd.decode(Prompt("?"), backend=BACKEND, schema=schema, strategy=_Spends("A"), budget={"model_calls": 4})
    assert {tuple(ranked.candidate.stages) for ranked in shallow.candidates} == {("A",)}
    scores = [ranked.score for ranked in shallow.candidates]
    assert scores[0].scored and len(shallow.candidates) > 2, "the scored ones first, the rest behind them"
    assert [score.scored for score in scores] == sorted((score.scored for score in scores), reverse=True)
