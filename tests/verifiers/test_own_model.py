"""Verifiers that ask a model of their own, and what is read behind a prompt piece by piece."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scorio.aggregate.confidence import picsar

from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.engine import decode
from structdecode.core.errors import BudgetSpent, ConfigError, NoModelError
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.testing import EchoModel, candidate, check_verifier, scripted
from structdecode.verifiers.log_prob import PiCSAR
from structdecode.verifiers.on_model import OnModel
from structdecode.verifiers.p_true import PTrue

SCENE = next(world.scenes("test", 0))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
TEXTS = tuple(SCENE.stages.values())
OTHER = ("count.", "a1 red circle.", "so 1.", "1")


@pytest.fixture(scope="module", params=["slots", "plain"])
def backend(request: pytest.FixtureRequest) -> Iterator[TransformersBackend]:
    with TransformersBackend.load("pocket", check=False, engine=request.param) as loaded:
        yield loaded


def metered(budget: Budget | None = None) -> tuple[MeteredModel, Meter]:
    meter = Meter(budget or Budget())
    return MeteredModel(None, meter, (0, "")), meter


def test_what_is_read_is_what_forcing_the_whole_gives(backend: TransformersBackend) -> None:
    whole = ("one. ", "two. ", "three.")

    async def run() -> None:
        model, _ = metered()
        async with model:
            own = model.on(backend)
            (spans,) = await own.read(PROMPT, [whole], hidden_layers=[-1])
            (again,) = await own.read(PROMPT, [["".join(whole)]], hidden_layers=[-1])
        ids = [token for span in spans for token in span.token_ids]
        assert ids == list(again[0].token_ids), "a byte-level tokenizer cuts at blanks"
        assert [v for s in spans for v in s.log_probs] == pytest.approx(again[0].log_probs, rel=1e-4, abs=1e-5)
        for layer in (spans[-1].hidden_states, again[0].hidden_states):
            assert layer is not None and layer.shape == (1, backend.model.config.get_text_config().hidden_size)
        np.testing.assert_allclose(spans[-1].hidden_states, again[0].hidden_states, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
        assert not np.allclose(spans[0].hidden_states, spans[1].hidden_states)  # type: ignore[arg-type]

    asyncio.run(run())


def test_beginnings_are_computed_once_in_a_search(backend: TransformersBackend) -> None:
    async def run() -> None:
        model, meter = metered()

        def taken() -> int:
            return meter.parts["verifier"].prefilled_tokens

        async with model:
            own = model.on(backend)
            await own.read(PROMPT, [["one. "]])
            template = taken() - (one := len(backend.codec.encode("one. ")))
            two, three = (len(backend.codec.encode(text)) for text in ("two. ", "three."))
            await own.read(PROMPT, [["one. ", "two. "], ["one. ", "three."]])
            assert taken() == template + one + two + three
            await own.read(PROMPT, [["one. ", "three."], ["one. ", "two. "], ["one. "]])
            assert taken() == template + one + two + three, "known"
            images = meter.parts["verifier"].images_encoded
            assert images == 1
            await own.read(PROMPT, [["three."]])  # lets the others go
            await own.read(PROMPT, [["one. ", "two. ", "three."]])
            assert taken() <= template + one + two + 3 * three + one + two, "what was let go is computed again"
            assert meter.parts["verifier"].flops > 0 and meter.own_models.prefilled_tokens == taken()

    asyncio.run(run())


def test_what_does_not_fit_the_budget_is_not_computed(backend: TransformersBackend) -> None:
    async def run() -> None:
        model, meter = metered(Budget(prefill_tokens=5))
        async with model:
            with pytest.raises(BudgetSpent):
                await model.on(backend).read(PROMPT, [["one. "]])
        assert meter.parts["verifier"].prefilled_tokens == 0

    asyncio.run(run())


def test_without_a_model_there_is_nothing_to_ask() -> None:
    async def run() -> None:
        model, _ = metered()
        async with model:
            with pytest.raises(NoModelError, match="no model to ask"):
                await model.log_probs(PROMPT, ["a"])
            assert model.resolution == 0.0

    asyncio.run(run())


def test_p_true_of_another_model_is_p_true_on_that_model() -> None:
    with TransformersBackend.load("pocket", check=False) as own:

        async def direct() -> list[float | None]:
            model, _ = metered()
            async with model:
                scores = await PTrue().score(PROMPT, [candidate(*TEXTS), candidate(*OTHER)], model.on(own))
                return [score.value for score in scores]

        expected = asyncio.run(direct())
    verifier = build("verifiers", "on-model", {"model": "pocket", "verifier": "p-true"})
    assert verifier == OnModel("pocket", PTrue()) and verifier.digest
    model = EchoModel()
    found = asyncio.run(verifier.score(PROMPT, [candidate(*TEXTS), candidate(*OTHER)], model))
    assert [score.value for score in found] == pytest.approx(expected, rel=1e-4)
    assert not model.asked and model.charged.flops > 0 and model.charged.images_encoded == 1
    check_verifier(verifier, prompt=PROMPT)


def test_a_search_bills_it_apart_and_leaves_nothing_open() -> None:
    verifier = OnModel("pocket", PTrue())
    result = decode(PROMPT, backend=ScriptedBackend(scripted), strategy=BestOfN(n=3, verifier=verifier))
    used = result.usage_by_part["verifier"]
    assert used.flops == result.own_models.flops > 0 and used.images_encoded == 1
    assert all(ranked.score.scored for ranked in result.candidates)
    held = weakref.ref(verifier.__dict__["_loaded"])
    verifier.close()
    gc.collect()
    assert held() is None, "freed with the last that holds it"


def test_a_wrong_path_is_said_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"'\./nowhere': no such directory"):
        OnModel("./nowhere", PTrue())


@pytest.mark.parametrize("normalise", [False, True])
def test_picsar_is_scorios(normalise: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = [-rng.random(int(n)) for n in rng.integers(1, 9, size=3)]
        spans = tuple(Span(n, "t", log_probs=tuple(p)) for n, p in zip(("SUMMARY", "CAPTION", "CONCLUSION"), parts, strict=True))  # fmt: skip
        (score,) = asyncio.run(PiCSAR(normalise).score(PROMPT, [Candidate(spans, (0, 0, 0))], EchoModel()))
        start = len(parts[0]) + len(parts[1])
        expected = picsar(np.concatenate(parts), answer_start=start, normalize_reasoning=normalise)
        assert score.value == pytest.approx(expected)
    (empty,) = asyncio.run(PiCSAR().score(PROMPT, [Candidate((Span("CONCLUSION", "t"),), (0,))], EchoModel()))
    assert empty.value is None and replace(EchoModel().charged) == Usage()
