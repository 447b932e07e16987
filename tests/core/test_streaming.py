"""Events as they happen: text while it is written, stages, what was kept; and the same search with them as without."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from contextlib import aclosing
from typing import Any

import pytest

import structdecode as sd
from structdecode.backends.transformers.streaming import TextStream
from structdecode.core.engine import run_sync
from structdecode.core.lookup import load_backend
from structdecode.pocket import world
from structdecode.strategies.sentence_beam import SentenceBeam
from structdecode.strategies.stage_beam import StageBeam

STAGE_BEAM = StageBeam(candidates=3, temperature=1.0, top_p=1.0, max_tokens=120)


@pytest.fixture(scope="module", params=["slots", "plain"])
def backend(request: pytest.FixtureRequest) -> Any:
    return load_backend(engine=request.param)


def prompt() -> sd.Prompt:
    scene = next(iter(world.scenes("test")))
    return sd.Prompt(scene.question.text, scene.render())


async def heard(backend: Any, strategy: Any, **options: Any) -> list[dict[str, Any]]:
    async with aclosing(sd.astream(prompt(), backend=backend, strategy=strategy, seed=3, **options)) as events:
        return [dict(event) async for event in events]


@pytest.mark.parametrize(
    "strategy", [STAGE_BEAM, SentenceBeam(candidates=2, temperature=1.0, top_p=1.0, max_tokens=120)]
)
def test_what_was_told_while_it_was_written_is_the_text(backend: Any, strategy: Any) -> None:
    events = run_sync(heard(backend, strategy, tokens=True))
    told: dict[tuple[int, ...], str] = defaultdict(str)
    compared = 0
    for event in events:
        path = tuple(event.get("path", ()))
        if event["kind"] == "tokens":
            told[path] += event["text"]
        elif event["kind"] == "candidate":
            assert told[path].strip() == event["text"], "all of it came before the candidate"
            compared += bool(event["text"])
    assert compared > 8 and sum(event["kind"] == "tokens" for event in events) > 5 * compared
    assert events[-1]["kind"] == "result"


def test_a_search_that_is_listened_to_is_the_same_search(backend: Any) -> None:
    events = run_sync(heard(backend, STAGE_BEAM, tokens=True))
    kept = [event for event in events if event["kind"] not in ("tokens", "stage")]
    quiet = sd.decode(prompt(), backend=backend, strategy=STAGE_BEAM, seed=3)
    assert [e for e in kept if e["kind"] == "candidate"] == [e for e in quiet.trace.events if e["kind"] == "candidate"]
    assert kept[-1]["answer"] == quiet.answer
    assert not {"tokens", "stage"} & {event["kind"] for event in quiet.trace.events}
    assert not any(event["kind"] == "tokens" for event in run_sync(heard(backend, STAGE_BEAM)))


def test_stages_are_told_before_they_are_written_and_what_is_pruned_after(backend: Any) -> None:
    events = run_sync(heard(backend, STAGE_BEAM))
    stages = [event for event in events if event["kind"] == "stage"]
    assert [event["stage"] for event in stages] == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
    assert all(len(event["paths"]) == 3 for event in stages)
    made = [tuple(event["path"]) for event in events if event["kind"] == "candidate"]
    keeps = [event for event in events if event["kind"] == "keep"]
    for event in keeps:
        assert {tuple(path) for path in event["pruned"]} <= set(made)
        assert not {tuple(p) for p in event["pruned"]} & {tuple(p) for p in event["kept"]}
    assert keeps


def test_a_slow_listener_and_one_that_leaves_harm_nothing(backend: Any) -> None:
    async def slow_then_gone() -> int:
        seen = 0
        async with aclosing(sd.astream(prompt(), backend=backend, strategy=STAGE_BEAM, tokens=True)) as events:
            async for event in events:
                await asyncio.sleep(0.002)
                seen += event["kind"] == "tokens"
                if seen == 20:
                    return seen
        return seen

    assert run_sync(slow_then_gone()) == 20
    assert sd.decode(prompt(), backend=backend, strategy=STAGE_BEAM, seed=3).answer


def test_a_failing_listener_is_called_no_more(backend: Any) -> None:
    class Failing:
        wants_tokens = True
        calls = 0

        def __call__(self, event: Any) -> None:
            self.calls += 1
            if event["kind"] == "tokens":
                raise RuntimeError("full")

    observer = Failing()
    result = sd.decode(prompt(), backend=backend, strategy="staged", seed=3, observer=observer)
    assert result.answer and observer.calls < 5
    assert any("the observer failed" in event.get("text", "") for event in result.trace.events)


# ------------------------------------------------------------------ pieces

LETTERS = "naïve 🦊 日本語 <b>x</b> 👩‍👩‍👧"


def test_no_piece_has_half_a_character() -> None:
    """Tokens are single bytes, the hardest case."""
    pieces: list[Any] = []
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), ["</END>"], pieces.append)
    for token in LETTERS.encode():
        stream.add(token)
    stream.end()
    assert "".join(pieces) == LETTERS and "\ufffd" not in "".join(pieces) and len(pieces) > 20


@pytest.mark.parametrize("sizes", [[1], [2, 3], [7], [50]])
def test_what_ends_a_stage_is_never_told(sizes: list[int]) -> None:
    text, pieces = "a < b </E and </EN then</END>behind</END>", []
    vocabulary = []
    for size in itertools.cycle(sizes):
        if not text:
            break
        vocabulary.append(text[:size])
        text = text[size:]
    stream = TextStream(lambda ids: "".join(vocabulary[i] for i in ids), ["</END>", "\n\n"], pieces.append)
    for token in range(len(vocabulary)):
        stream.add(token)
        assert "</END" not in "".join(pieces)
    stream.end()
    assert "".join(pieces) == "a < b </E and </EN then"


def test_what_looks_like_the_beginning_of_a_stop_is_told_at_the_end() -> None:
    pieces: list[Any] = []
    stream = TextStream(lambda ids: "".join(map(chr, ids)), ["</END>"], pieces.append, before=tuple(map(ord, "open")))
    for letter in " text </EN":
        stream.add(ord(letter))
    assert "".join(pieces) == " text "
    stream.end()
    assert "".join(pieces) == " text </EN"
    stream.restart()
    assert pieces[-1] is None


def test_a_character_that_two_spans_share_is_told_once() -> None:
    """The span before ended in the middle of it and told nothing of it."""
    letters, pieces = "naïve 🦊!".encode(), []
    cut = letters.index("🦊".encode()) + 2
    told: list[Any] = []
    first = TextStream(lambda ids: bytes(ids).decode(errors="replace"), [], told.append)
    for token in letters[:cut]:
        first.add(token)
    first.end()
    second = TextStream(lambda ids: bytes(ids).decode(errors="replace"), [], pieces.append, before=letters[:cut])
    for token in letters[cut:]:
        second.add(token)
    second.end()
    assert "".join(told) == "naïve " and "".join(pieces) == "🦊!"
