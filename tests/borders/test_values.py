"""Settings from Python are held to what a command line is held to; a backend ends, and says where it cannot be used."""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.settings import build, verifier_from
from structdecode.evaluation.study import DataSource, Study
from structdecode.pocket import checkpoint_path
from structdecode.pocket.samples import write_samples
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.self_consistency import SelfConsistency
from structdecode.strategies.sentence_beam import SentenceBeam
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import check_verifier
from structdecode.training import as_reward
from structdecode.verifiers.agreement import Agreement
from structdecode.verifiers.blindfold import Blindfold
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.consistency import Consistency
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.generative import Generative
from structdecode.verifiers.grounding import Grounding
from structdecode.verifiers.label_read import LabelRead
from structdecode.verifiers.log_prob import LogProb, SelfCertainty
from structdecode.verifiers.math_check import MathCheck
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.premises import Premises
from structdecode.verifiers.round_trip import RoundTrip
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge
from structdecode.verifiers.tool import Tool
from structdecode.verifiers.tournaments import Knockout, RoundRobin

WRONG: list[tuple[Any, dict[str, Any]]] = [
    (kind, {field: value})
    for kind, field in ((BestOfN, "n"), (SelfConsistency, "n"), (StageBeam, "candidates"), (StageBeam, "beams"), (SentenceBeam, "candidates"))
    for value in (4.5, "4", True, None, 0, -1, float("nan"), [4], 4.0)
] + [
    (kind, {field: value})
    for kind in (BestOfN, StageBeam)
    for field, values in {
        "temperature": (float("nan"), float("inf"), -1, "1", [1], True), "top_p": (0, 2, float("nan"), "x"), "top_k": (-1, 1.5, "x"),
        "max_tokens": (0, -1, 1.5, float("inf"), "x"),
    }.items() for value in values
]  # fmt: skip


WRONG += [
    (kind, {field: value})
    for kind, given in {
        SelfJudge: {"temperature": (float("nan"), -1, "1", None), "top_p": (2, 0), "max_tokens": (0, 1.5), "both_orders": (1, "yes"), "tournament": ("x", 3)},
        LogProb: {"scope": ("x", None, 1)}, SelfCertainty: {"scope": ("x",)}, PTrue: {"yes": ("no", "", 3), "template": (None,)},
        Rule: {"pattern": (3, None, "("), "predicate": (3, "x"), "stage": (3,)}, Agreement: {"check": (3, None)},
        LabelRead: {"kind": ("x", None), "options": ("ab", (1, 2)), "both_orders": (1,), "questions": ({"a": 3}, [1]), "state": (None,)},
        Generative: {"n": (0, 1.5), "read": ("x",), "temperature": (-1,), "top_k": (-1,), "max_tokens": (0,)},
        Consistency: {"n": (0, "4"), "given": (3,), "top_p": (0,)}, RoundTrip: {"direction": ("x",), "caption": (None,)},
        FunctionVerifier: {"function": (3, "x")}, Knockout: {"judge": (3, None, LogProb(), "x")}, RoundRobin: {"judge": (3,)},
        ByStage: {"routes": (3, None, {"x": 3}, {"x": len}, "{x: log-prob}")},
        Blindfold: {"read": ("x", None), "shown": ((), "CAPTION", 3), "samples": (0, 1.5, "3"), "diagnose": (1,), "control": ("x",)},
        Grounding: {"control": ("grey", None), "patches": (1, "8"), "seed": (-1, 0.5), "stages": ("CAPTION", None)},
        Premises: {"verifier": (3, len, PTrue), "aggregate": ("max",), "severe": (0.6, -1, "x")}, MathCheck: {"nothing": ("x",), "most": (0, 1.5)},
        Tool: {"command": ("true", (), None, 3), "function": (3,)},
        Ensemble: {"members": ({}, 3, [LogProb()], {"a": 3}, {"a": LogProb})},
        BestOfN: {"verifier": (3, len, lambda c: 1.0, "x", None, LogProb, [LogProb()], {"a": LogProb()})},
        StageBeam: {"verifier": (3,)}, SentenceBeam: {"verifier": (3,), "max_sentences": (0, 1.5)},
        sd.Sampling: {"temperature": ("x", float("nan"), None), "max_tokens": (1.5, True), "top_k": (0.5,)},
    }.items() for field, values in given.items() for value in values
]  # fmt: skip
WRONG += [(partial(ByStage, {}), {"default": 3}), (partial(Ensemble, {"a": LogProb()}), {"normalise": "x"})]
for weight in (0, float("nan"), "1", None):
    WRONG.append((partial(Ensemble, {"a": LogProb()}), {"weights": {"a": weight}}))


@pytest.mark.parametrize(("kind", "settings"), WRONG)
def test_settings_from_python_are_checked(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        kind(**settings)


def test_numbers_of_another_library_and_names_of_verifiers_are_taken_as_a_command_line_has_them() -> None:
    made = BestOfN(n=np.int64(4), temperature=np.float32(1), verifier="log-prob")  # type: ignore[arg-type]
    assert made == build("strategies", "best-of-n", {"n": "4", "temperature": "1", "verifier": "log-prob"})
    assert repr(made) == repr(BestOfN(n=4, temperature=1.0))
    assert repr(Budget(tokens=np.int64(5), seconds=2)) == repr(Budget(tokens=5, seconds=2.0))  # type: ignore[arg-type]
    assert Ensemble({"a.b": LogProb()}, {"a.b": 2}).weights == {"a.b": 2.0}


def test_a_seed_is_a_whole_number_of_any_library() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed} {stage.end}")
    ask = partial(sd.decode, sd.Prompt("?"), backend=backend)
    assert ask(seed=np.int64(5), sample_id=np.str_("a")).best == ask(seed=5, sample_id="a").best


@pytest.mark.parametrize("seed", [1.5, 5.0, True, "5", None, float("nan"), np.float64(5)])
def test_what_is_no_seed(seed: Any) -> None:
    async def many() -> None:
        async for _ in sd.decode_many([sd.Prompt("?")], backend=sd.ScriptedBackend(lambda *a: ""), seed=seed):
            pass

    for use in (
        lambda: sd.decode(sd.Prompt("?"), backend=sd.ScriptedBackend(lambda *a: ""), seed=seed),
        lambda: asyncio.run(many()),
        lambda: as_reward("log-prob", seed=seed),
        lambda: Study(DataSource("pocket"), (), seeds=(seed,)),
    ):
        with pytest.raises(ConfigError, match="seed must be a whole number"):
            use()


def test_a_world_has_no_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed must be 0 or more, not -1"):
        write_samples(tmp_path / "out", "test", 1, -1, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [3, len, LogProb, None])
def test_what_is_no_verifier(given: Any) -> None:
    for use in (verifier_from, as_reward):
        with pytest.raises(ConfigError, match="a verifier is a name"):
            use(given)


SCRIPTED = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"1 {stage.end}")
NONSENSE: list[Any] = [5, 1.5, True, [1], {"a": 1}, object(), b"x", -1, 10**5000, float("nan")]
FITTING: dict[str, tuple[int, ...]] = {
    "seed": (0, 7, 8), "verifier_timeout": (0, 1), "trace_tokens": (2,), "tokens": (2,), "concurrency": (0,),
    "sample_ids": (3, 4), "prompts": (3, 4),
}  # fmt: skip
"""Places in `NONSENSE` of what is none for this parameter."""


async def _listen(events: Any) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize(
    ("ask", "name"),
    [(sd.decode, name) for name in ("schema", "strategy", "budget", "seed", "observer", "verifier_timeout", "trace_tokens", "backend")]
    + [(sd.astream, name) for name in ("schema", "strategy", "budget", "seed", "verifier_timeout", "tokens")]
    + [(sd.decode_many, name) for name in ("schema", "strategy", "budget", "seed", "verifier_timeout", "concurrency", "sample_ids", "prompts")],
)  # fmt: skip
def test_a_wrong_type_for_any_named_parameter_is_said_in_one_line(ask: Any, name: str) -> None:
    for value in (value for at, value in enumerate(NONSENSE) if at not in FITTING.get(name, ())):
        given = {"backend": SCRIPTED, name: value}
        first = given.pop("prompts", ["?"]) if ask is sd.decode_many else "?"
        with pytest.raises(ConfigError) as caught:
            found = ask(first, **given)
            if ask is not sd.decode:
                asyncio.run(_listen(found))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("wrong", [-1, 0x110000, True, "a", 1.0, None, 10**4000])
def test_an_impossible_token_id_is_named(wrong: Any) -> None:
    async def forces(schema: sd.Schema, decoder: sd.Decoder) -> list[sd.Ranked]:
        await decoder.force([decoder.root], schema.stages[0], [[97, wrong]])
        return []

    with pytest.raises(ConfigError, match="is no token of the model: ids go from 0 to"):
        sd.decode("?", backend=SCRIPTED, strategy=forces)


def test_one_text_is_no_list_of_prompts() -> None:
    with pytest.raises(ConfigError, match="prompts must be a list"):
        asyncio.run(_listen(sd.decode_many("What is it?", backend=SCRIPTED)))


@pytest.mark.parametrize("field", ["tokens", "prefill_tokens", "model_calls", "verifier_calls", "seconds", "dollars"])
def test_a_limit_is_refused_where_no_search_comes_near_it_and_works_else(field: str) -> None:
    for value in (2**63, 10**400, 10**15 + 1, float("inf"), float("nan"), 1e300):
        with pytest.raises(ConfigError, match=f"budget: {field} must be") as caught:
            Budget(**{field: value})
        assert len(str(caught.value)) < 200
    result = sd.decode("?", backend=SCRIPTED, budget=Budget(**{field: 10**15}))
    assert result.stopped_by is None


@pytest.mark.parametrize("given", [3, None, BestOfN])
def test_what_is_no_strategy(given: Any) -> None:
    with pytest.raises(ConfigError, match="a strategy is a name"):
        sd.decode(sd.Prompt("?"), backend=sd.ScriptedBackend(lambda *a: ""), strategy=given)


def test_settings_of_a_function_are_not_dropped() -> None:
    with pytest.raises(ConfigError, match="weight"):
        verifier_from(len, {"weight": 2})


def test_a_verifier_is_checked_on_a_prompt_of_ones_own() -> None:
    seen = []

    def function(prompt: sd.Prompt, candidate: sd.Candidate) -> float:
        seen.append(prompt.question)
        return 1.0

    check_verifier(build("verifiers", "callable", {"function": function}), prompt=sd.Prompt("Mine?"))
    assert set(seen) == {"Mine?"}


def test_a_closed_backend_leaves_no_thread_and_says_so() -> None:
    before = {t.name for t in threading.enumerate() if t.name.startswith("structdecode-model")}
    with TransformersBackend.load(checkpoint_path(), device="cpu", check=False) as backend:
        assert sd.decode(sd.Prompt("How many?"), backend=backend, budget=Budget(tokens=3)).best is not None
    left = {t.name for t in threading.enumerate() if t.name.startswith("structdecode-model")}
    assert len(left) <= len(before)
    with pytest.raises(ModelError, match="closed"):
        sd.decode(sd.Prompt("How many?"), backend=backend)


def test_a_child_that_was_forked_is_told() -> None:
    backend = TransformersBackend.load(checkpoint_path(), device="cpu", check=False)
    sd.decode(sd.Prompt("How many?"), backend=backend, budget=Budget(tokens=3))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            backend.open(sd.Prompt("How many?"))
            os.write(write, b"opened")
        except ModelError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"spawn" in os.read(read, 1000)
