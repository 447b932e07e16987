"""Whatever a verifier, a strategy or an observer does at the border is data in the result, or one line of ours."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import structdecode as sd
from structdecode.core import registry
from structdecode.core.budget import Budget, Usage
from structdecode.core.errors import (
    BudgetSpent,
    ConfigError,
    PromptError,
    SchemaError,
    StrategyError,
    StructdecodeError,
)
from structdecode.core.settings import build
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Prompt, Ranked, Schema, Score, Stage, rank
from structdecode.strategies.best_of_n import BestOfN
from structdecode.testing import candidate

PICTURE = Image.new("RGB", (8, 8))
BACKEND = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed % 7} {stage.end}")


class Verifier:
    """Of one function of the candidates and the model, async or plain."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self.act = act

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> Any:
        found = self.act(candidates, model)
        return await found if asyncio.iscoroutine(found) else found


def search(verifier: Any, **options: Any) -> sd.Result:
    strategy = build("strategies", "best-of-n", {"n": 4, "verifier": verifier})
    return sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, **options)


def each(make: Callable[[], Any]) -> Verifier:
    return Verifier(lambda candidates, model: [make() for _ in candidates])


# ------------------------------------------------------------------ what a score may hold

NUMBERS: dict[str, Any] = {
    "int": 1, "bool": True, "float32": np.float32(1), "float64": np.float64(1), "int64": np.int64(1), "0-d array": np.array(1.0),
    "torch scalar": torch.tensor(1.0), "torch bfloat16": torch.tensor(1.0, dtype=torch.bfloat16), "1-element": torch.ones(1),
    "Decimal": Decimal(1), "Fraction": Fraction(1), "grad": torch.tensor(1.0, requires_grad=True),
}  # fmt: skip
NO_NUMBERS: dict[str, Any] = {
    "NaN": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "numpy NaN": np.float32("nan"), "text": "1", "bytes": b"1",
    "list": [1.0], "array": np.ones(2), "tensor": torch.ones(2), "complex": 1j, "object": object(), "meta": torch.ones((), device="meta"),
    "Decimal NaN": Decimal("NaN"), "huge": 10**400, "dict": {},
}  # fmt: skip
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DETAILS: dict[str, Any] = {
    "bytes": {"a": b"\xff"}, "NaN": {"a": float("nan")}, "circle": {"a": CIRCLE}, "array": {"a": np.ones(3)}, "set": {"a": {1}},
    "keys": {1: 2, None: 3, (1, 2): 4}, "no mapping": [1, 2], "object": {"a": object()}, "tensor": {"a": torch.ones(2)},
    "deep": {"a": json.loads("[" * 500 + "]" * 500)}, "path": {"a": Path("x")}, "float32": {"a": np.float32(0.5)}, "huge": {"a": 10**400}, "digits": {"a": 10**5000}, "surrogate": {"a": "\ud800", "\ud800": 1},
}  # fmt: skip


def saved(result: sd.Result, folder: Path) -> Trace:
    """The trace survives being written and read, as strict JSON."""
    result.trace.save(folder / "trace.json")
    json.loads((folder / "trace.json").read_text(), parse_constant=pytest.fail)
    return Trace.load(folder / "trace.json")


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_of_any_library_is_a_score(case: str, tmp_path: Path) -> None:
    result = search(each(lambda: Score(NUMBERS[case])))
    assert not result.trace.failures and all(type(r.score.value) is float for r in result.candidates)
    assert saved(result, tmp_path).events[-1]["answer"] == result.answer


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("field", ["value", "resolution", "reason", "details"])
def test_a_score_that_raises_when_it_is_read_is_a_failure_of_its_verifier(field: str, kind: type) -> None:
    class Raises:
        def raises(self) -> Any:
            raise kind

        __float__ = __str__ = __repr__ = raises

    made = {"value": 1.0, field: {"a": Raises()} if field == "details" else Raises()}
    result = search(each(lambda: Score(**made)))
    assert result.answer and (field == "details" or result.trace.failures[0]["verifier"] == "Verifier")


def test_an_error_that_quotes_a_long_text_is_cut_and_cleaned() -> None:
    async def fails(schema: sd.Schema, decoder: sd.Decoder) -> list[sd.Ranked]:
        raise ValueError("\x1b[31m" + "x" * 9999)

    with pytest.raises(sd.StructdecodeError) as caught:
        sd.decode("?", backend=BACKEND, strategy=fails)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


@pytest.mark.filterwarnings("error")
def test_a_number_with_a_gradient_is_read_without_a_warning() -> None:
    assert not search(each(lambda: Score(NUMBERS["grad"]))).trace.failures


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_is_no_number_is_named(case: str, tmp_path: Path) -> None:
    result = search(each(lambda: Score(NO_NUMBERS[case])))
    assert result.answer and "not a" in result.trace.failures[0]["error"]
    assert all(not r.score.scored for r in result.candidates)
    saved(result, tmp_path)


@pytest.mark.parametrize("case", DETAILS)
def test_details_are_json(case: str, tmp_path: Path) -> None:
    result = search(each(lambda: Score(1.0, details=DETAILS[case])))
    assert not result.trace.failures and result.candidates[0].score.value == 1
    saved(result, tmp_path)


@pytest.mark.parametrize("reason", [b"x", None, 1, ["a"], "\x00\x1b[31m", "\ud800"])
def test_reasons_are_texts(reason: Any, tmp_path: Path) -> None:
    result = search(each(lambda: Score(1.0, reason)))
    assert isinstance(result.candidates[0].score.reason, str)
    saved(result, tmp_path)


# ------------------------------------------------------------------ what a verifier may do


def _raise(error: BaseException) -> Any:
    raise error


async def _never(swallow: bool = False) -> Any:
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if not swallow:
                raise


FAILING: dict[str, Callable[..., Any]] = {
    "CancelledError": lambda c, m: _raise(asyncio.CancelledError()), "SystemExit": lambda c, m: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda c, m: _raise(KeyboardInterrupt()), "GeneratorExit": lambda c, m: _raise(GeneratorExit()),
    "StopIteration": lambda c, m: _raise(StopIteration()), "RecursionError": lambda c, m: _raise(RecursionError()),
    "MemoryError": lambda c, m: _raise(MemoryError()), "TimeoutError": lambda c, m: _raise(OSError("disk")),
    "None": lambda c, m: None, "too few": lambda c, m: [Score(1.0)], "text": lambda c, m: "abcd", "mapping": lambda c, m: dict.fromkeys("abcd"),
    "numbers": lambda c, m: [1.0] * len(c), "classes": lambda c, m: [Score] * len(c), "generator": lambda c, m: (s for s in "abcd"),
    "negative charge": lambda c, m: m.charge(Usage(generated_tokens=-1000)), "charge of a mapping": lambda c, m: m.charge({"tokens": 1}),
    "replies without end": lambda c, m: m.complete(Prompt("?"), n=10**12, sampling=sd.Sampling()), "a huge value": lambda c, m: [Score(10**5000)] * 4,
    "NaN charge": lambda c, m: m.charge(Usage(seconds=float("nan"))),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
def test_a_failing_verifier_is_data(case: str, tmp_path: Path) -> None:
    result = search(Verifier(FAILING[case]))
    assert result.answer and result.trace.failures and len(result.candidates) > 1
    assert result.usage.generated_tokens > 0
    saved(result, tmp_path)


@pytest.mark.parametrize("how", ["pop", "clear", "stages", "append"])
def test_a_verifier_changes_nothing_of_the_search(how: str) -> None:
    def act(candidates: list[Candidate], model: Any) -> list[Score]:
        scores = [Score(float(len(c.text))) for c in candidates]
        if how == "stages":
            for candidate in candidates:
                candidate.stages["CONCLUSION"] = "what it wrote"
        else:
            {"pop": candidates.pop, "clear": candidates.clear, "append": lambda: candidates.append(Candidate())}[how]()
        return scores

    changed, left_alone = search(Verifier(act)), search(Verifier(lambda cs, m: [Score(float(len(c.text))) for c in cs]))
    assert changed.answer == left_alone.answer and changed.best == left_alone.best and not changed.trace.failures


@pytest.mark.parametrize("limit", ["timeout", "budget"])
@pytest.mark.parametrize(
    "how", ["waits", "swallows its cancellation", "sleeps in a plain method", "sleeps in a function"]
)
def test_no_verifier_outlasts_its_time(how: str, limit: str) -> None:
    class Plain:
        def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> Any:
            time.sleep(30)

    verifier: Any = {
        "waits": Verifier(lambda c, m: _never()), "swallows its cancellation": Verifier(lambda c, m: _never(True)),
        "sleeps in a plain method": Plain(),
        "sleeps in a function": build("verifiers", "callable", {"function": lambda candidate: time.sleep(30)}),
    }[how]  # fmt: skip
    began = time.monotonic()
    options: dict[str, Any] = {"verifier_timeout": 0.2} if limit == "timeout" else {"budget": Budget(seconds=0.4)}
    result = asyncio.run(asyncio.wait_for(_search(verifier, **options), 20))
    assert time.monotonic() - began < 15 and result.answer
    assert result.stopped_by == ("seconds" if limit == "budget" else None)
    gc.collect()


async def _search(verifier: Any, **options: Any) -> sd.Result:
    strategy = build("strategies", "best-of-n", {"n": 4, "verifier": verifier})
    return await sd.adecode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, **options)


def test_a_search_that_is_cancelled_stays_cancelled_whatever_its_verifier_does() -> None:
    async def run() -> None:
        task = asyncio.ensure_future(_search(Verifier(lambda c, m: _never(True)), verifier_timeout=30))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(run(), 20))


# ------------------------------------------------------------------ strategies, observers, arguments


async def _bare(schema: Schema, decoder: Any) -> Any:
    return await decoder.extend([decoder.root], schema.stages[0], n=2)


async def _nothing(schema: Schema, decoder: Any) -> Any:
    return None


async def _failing(schema: Schema, decoder: Any) -> Any:
    raise KeyError("x")


async def _text(schema: Schema, decoder: Any) -> Any:
    return "abc"


@pytest.mark.parametrize("strategy", [_bare, _nothing, _failing, _text])
def test_a_strategy_that_fails_is_named(strategy: Any) -> None:
    with pytest.raises(StructdecodeError) as caught:
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy)
    assert strategy.__name__ in str(caught.value) and "\n" not in str(caught.value)


def test_a_strategy_without_a_name_goes_by_its_classs() -> None:
    class Odd:
        async def __call__(self, schema: Schema, decoder: Any) -> Any:
            raise KeyError("x")

    with pytest.raises(StructdecodeError, match="strategy Odd failed: KeyError: 'x'"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=Odd())


@pytest.mark.parametrize("amount", [10**12, 0, -1, 1.5, "3", None])
def test_a_strategy_asks_for_no_more_rows_than_there_may_be(amount: Any) -> None:
    async def strategy(schema: Schema, decoder: Any) -> list[Ranked]:
        found = await decoder.extend([decoder.root], schema.stages[0], n=amount)
        return rank(found, [Score(0.0)] * len(found))

    with pytest.raises(ConfigError, match="whole number from 1"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy)


def test_rows_beyond_the_budget_are_never_made() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    strategy = build("strategies", "best-of-n", {"n": 1_000_000})
    result = sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, budget=Budget(tokens=20))
    assert result.usage.generated_tokens <= 20 and result.stopped_by == "tokens"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_an_observer_that_fails_ends_no_search() -> None:
    seen = []

    def observer(event: Any) -> None:
        seen.append(event)
        raise OSError("screen gone")

    result = sd.decode(sd.Prompt("?"), backend=BACKEND, observer=observer)
    warnings = [event["text"] for event in result.trace.events if event["kind"] == "warning"]
    assert result.answer and len(seen) == 1 and len(warnings) == 1 and "screen gone" in warnings[0]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"text",), PromptError), ((None,), PromptError), ((7,), PromptError),
    ],
)  # fmt: skip
def test_what_is_no_prompt(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match="a prompt is a Prompt"):
        sd.decode(*arguments, backend=BACKEND)


@pytest.mark.parametrize("backend", [None, b"a/path", 7])
def test_what_is_no_backend(backend: Any) -> None:
    with pytest.raises(ConfigError, match="a backend is"):
        sd.decode(sd.Prompt("?"), backend=backend)


@pytest.mark.parametrize("budget", [5, "tokens=5", [("tokens", 5)]])
def test_what_is_no_budget(budget: Any) -> None:
    with pytest.raises(ConfigError, match="a budget is"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, budget=budget)


@pytest.mark.parametrize("limit", ["tokens", "prefill_tokens", "model_calls", "verifier_calls", "seconds", "dollars"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", [5], True, -0.5, 1.5])
def test_limits_are_numbers(limit: str, value: Any) -> None:
    if limit in ("seconds", "dollars") and value == 1.5:
        assert getattr(Budget(**{limit: value}), limit) == 1.5
        return
    with pytest.raises(ConfigError, match=limit):
        Budget(**{limit: value})


@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "8", None])
def test_concurrency_is_a_number_within_reason(value: Any) -> None:
    async def run() -> None:
        async for _ in sd.decode_many([sd.Prompt("?")], backend=BACKEND, concurrency=value):
            pass

    with pytest.raises(ConfigError, match="concurrency"):
        asyncio.run(run())


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_timeout_is_a_time(value: Any) -> None:
    with pytest.raises(ConfigError, match="verifier_timeout"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, verifier_timeout=value)


def test_one_prompt_that_cannot_be_asked_costs_itself_alone() -> None:
    from structdecode.backends.transformers import TransformersBackend
    from structdecode.pocket import checkpoint_path

    backend = TransformersBackend.load(checkpoint_path(), device="cpu")
    prompts = [sd.Prompt("How many?"), sd.Prompt("red " * 600), sd.Prompt("What colour?")]

    async def run() -> dict[int, sd.Result]:
        return {at: found async for at, found in sd.decode_many(prompts, backend=backend, budget=Budget(tokens=8))}

    found = asyncio.run(run())
    assert len(found) == 3 and "context" in found[1].error and not found[0].error and not found[2].error


@pytest.mark.parametrize("entry", [b"What is it?", None, 7, {"question": "?"}])
def test_an_entry_that_is_no_prompt_costs_itself_alone(entry: Any) -> None:
    async def run() -> dict[int, sd.Result]:
        prompts = [sd.Prompt("?"), entry, sd.Prompt("?")]
        return {at: found async for at, found in sd.decode_many(prompts, backend=BACKEND)}

    found = asyncio.run(run())
    assert found[0].answer and found[2].answer and "a prompt is a Prompt" in found[1].error
    assert found[1].best is None and "not asked" in found[1].warnings[0]


def test_a_schema_nobody_sees_anything_of() -> None:
    with pytest.raises(SchemaError, match="no visible stage"):
        Schema("dark", (Stage.tagged("A", visible=False),))


@pytest.mark.parametrize("limit", ["timeout", "budget"])
def test_what_a_verifier_says_after_it_blocked_the_event_loop_is_late(limit: str) -> None:
    def act(candidates: Sequence[Candidate], model: Any) -> list[Score]:
        time.sleep(2)
        return [Score(1.0)] * len(candidates)

    options: dict[str, Any] = {"verifier_timeout": 0.2} if limit == "timeout" else {"budget": Budget(seconds=0.4)}
    result = search(Verifier(act), **options)
    assert result.answer and not any(ranked.score.scored for ranked in result.candidates)
    assert result.stopped_by == ("seconds" if limit == "budget" else None)
    assert bool(result.trace.failures) == (limit == "timeout")


# ------------------------------------------------------------------ strategies that do what none may


def _answers(schema: Schema, decoder: Any, n: int = 1) -> Any:
    return BestOfN(n=n)(schema, decoder)


class _OwnExit(BaseException):
    pass


EXITS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), _OwnExit(), TimeoutError()]


@pytest.mark.parametrize("error", EXITS, ids=repr)
@pytest.mark.parametrize("limit", [None, 30])
def test_a_strategy_that_exits_is_named(error: BaseException, limit: float | None) -> None:
    async def strategy(schema: Schema, decoder: Any) -> Any:
        raise error

    with pytest.raises(StrategyError, match=f"strategy strategy failed: .*{type(error).__name__}"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, budget=Budget(seconds=limit))


@pytest.mark.parametrize("error", EXITS, ids=repr)
def test_a_verifier_that_exits_is_data(error: BaseException) -> None:
    result = search(Verifier(lambda c, m: _raise(error)))
    assert result.answer and type(error).__name__ in result.trace.failures[0]["error"]


@pytest.mark.parametrize("how", ["waits", "swallows its cancellation", "takes no notice of the budget"])
def test_a_strategy_that_hangs_is_ended_by_the_budget(how: str) -> None:
    async def strategy(schema: Schema, decoder: Any) -> Any:
        await _answers(schema, decoder, 3)
        while how == "takes no notice of the budget":
            with suppress(BudgetSpent):
                await decoder.extend([decoder.root], schema.stages[0])
        await _never(how == "swallows its cancellation")

    began = time.monotonic()
    result = sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, budget=Budget(seconds=0.3))
    assert time.monotonic() - began < 15
    assert result.stopped_by == "seconds" and result.answer and result.best is not None
    gc.collect()


def test_a_strategy_that_ends_its_tasks_as_a_group_is_stopped_by_the_budget() -> None:
    async def strategy(schema: Schema, decoder: Any) -> Any:
        await _answers(schema, decoder)
        async with asyncio.TaskGroup() as group:
            for _ in range(9):
                group.create_task(decoder.extend([decoder.root], schema.stages[0]))

    result = sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy, budget=Budget(model_calls=6))
    assert result.stopped_by == "model_calls" and result.answer


def test_what_a_late_verifier_leaves_is_ranked_by_the_strategy() -> None:
    """Behind the deadline a strategy still has the time to rank what it has."""
    result = search(Verifier(lambda c, m: _never(True)), budget=Budget(seconds=0.3))
    assert result.stopped_by == "seconds" and {len(r.paths) for r in result.candidates} and result.answer
    assert all("budget spent: seconds" in r.score.reason for r in result.candidates)


OTHERS: list[Candidate] = []
FOREIGN: dict[str, Callable[[Ranked], Ranked]] = {
    "of another search": lambda own: Ranked(OTHERS[0], own.score),
    "made by hand": lambda own: Ranked(candidate("a", "b", "c", "d"), own.score),
    "changed": lambda own: Ranked(replace(own.candidate, spans=own.candidate.spans[:1]), own.score),
    "at another path": lambda own: Ranked(replace(own.candidate, path=(9, 9)), own.score),
    "other draws": lambda own: Ranked(own.candidate, own.score, (own.candidate.path, (9, 9))),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_candidate_that_the_decoder_never_made_is_no_answer(how: str) -> None:
    async def strategy(schema: Schema, decoder: Any) -> list[Ranked]:
        found = list(await _answers(schema, decoder, 3))
        return [*found[1:], FOREIGN[how](found[0])]

    other = sd.decode(sd.Prompt("?"), backend=sd.ScriptedBackend(lambda *asked: "x"), strategy=BestOfN(n=1))
    OTHERS[:] = [ranked.candidate for ranked in other.candidates]
    with pytest.raises(StrategyError, match="strategy strategy gave back a candidate that its decoder never made"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy)


@pytest.mark.parametrize("score", [0.5, None, "best", Score(float("nan"))])
def test_a_strategy_that_ranks_by_what_is_no_score_is_named(score: Any) -> None:
    async def strategy(schema: Schema, decoder: Any) -> list[Ranked]:
        return [replace(ranked, score=score) for ranked in await _answers(schema, decoder)]

    with pytest.raises(StrategyError, match="no score"):
        sd.decode(sd.Prompt("?"), backend=BACKEND, strategy=strategy)


@pytest.mark.parametrize("name", registry.names("strategies"))
def test_the_rest_of_a_schema_is_not_written_from_the_root(name: str) -> None:
    async def strategy(schema: Schema, decoder: Any) -> Any:
        await decoder.extend([decoder.root], schema.stages[0])
        return await build("strategies", name)(replace(schema, stages=schema.stages[1:]), decoder)

    with pytest.raises(StrategyError, match="'CAPTION' was asked for behind the root, without 'SUMMARY'"):
        sd.decode(sd.Prompt("?", PICTURE), backend=BACKEND, strategy=strategy, schema="llava-o1")


def test_the_first_stages_of_a_schema_are_written_as_a_schema() -> None:
    async def strategy(schema: Schema, decoder: Any) -> Any:
        first = tuple(replace(stage, visible=True) for stage in schema.stages[:2])
        begun = await _answers(replace(schema, stages=first), decoder, 3)
        beams = [ranked.candidate for ranked in begun]
        for stage in schema.stages[2:]:
            beams = await decoder.extend(beams, stage)
        return rank(beams, [Score(0.0)] * len(beams))

    result = sd.decode(sd.Prompt("?", PICTURE), backend=BACKEND, strategy=strategy, schema="llava-o1")
    assert list(result.stages) == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
