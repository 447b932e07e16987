"""Verifiers that need no judge: what they give at the edges. Never NaN."""

from __future__ import annotations

import asyncio
import functools
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from structdecode import verifiers
from structdecode.budget import BudgetSpent
from structdecode.errors import ConfigError
from structdecode.pocket import world
from structdecode.protocols import Model
from structdecode.registry import load_all, name_of
from structdecode.testing import EchoModel, candidate
from structdecode.types import Candidate, Prompt, Score, Span
from structdecode.verifiers.agreement import Agreement
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.log_prob import LogProb, SelfCertainty
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.rule import Rule

QUESTION = "How many red squares are there?"


def score(verifier: Any, *candidates: Candidate, question: str = QUESTION, model: Model | None = None) -> list[Score]:
    return list(asyncio.run(verifier.score(Prompt(question), candidates, model or EchoModel())))


def value(verifier: Any, one: Candidate, **more: Any) -> float | None:
    return score(verifier, one, **more)[0].value


# ------------------------------------------------------------------ log-prob, self-certainty


def test_means_weigh_tokens_not_stages_and_leave_forced_tokens_out() -> None:
    spans = (
        Span("SUMMARY", "a", (1, 2, 3), (-1.0, -1.0, -1.0), (2.0, 2.0, 2.0), prefix_ids=(9, 9)),
        Span("CAPTION", "b.", (4,), (-5.0,), (6.0,), closed=False),
        Span("CAPTION", "c.", (5,), (-7.0,), (8.0,)),
    )
    one = Candidate(spans)
    assert value(LogProb(), one) == pytest.approx(-15 / 5) and value(SelfCertainty(), one) == pytest.approx(20 / 5)
    assert value(LogProb("stage"), one) == -6.0 and value(SelfCertainty("stage"), one) == 7.0


@pytest.mark.parametrize("kind", [LogProb, SelfCertainty])
@pytest.mark.parametrize("scope", ["answer", "stage"])
@pytest.mark.parametrize("values", [(), (-math.inf, -1.0), (math.nan,)])
def test_no_tokens_or_no_finite_mean_is_unscored(kind: Any, scope: str, values: tuple[float, ...]) -> None:
    (result,) = score(kind(scope), Candidate((Span("A", "x", (1,) * len(values), values, values),)))
    assert not result.scored and result.reason


# ------------------------------------------------------------------ p-true


class Fixed(EchoModel):
    def __init__(self, yes: list[float], no: list[float]) -> None:
        super().__init__()
        self.both = [yes, no]

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        self.asked.append(prompt)
        return self.both


@pytest.mark.parametrize(
    ("yes", "no", "expected"),
    [
        ([math.log(0.3)], [math.log(0.1)], 0.75),
        ([math.log(0.5), math.log(0.6)], [math.log(0.1)], 0.75),
        ([-math.inf], [-1.0], 0.0),
        ([-1.0], [-math.inf], 1.0),
        ([-5000.0], [-1.0], 0.0),
        ([-1.0], [-5000.0], 1.0),
        ([-math.inf], [-math.inf], None),
        ([math.nan], [-1.0], None),
    ],
)
def test_p_true_mathematics(yes: list[float], no: list[float], expected: float | None) -> None:
    result = value(PTrue(), candidate("s", "c"), model=Fixed(yes, no))
    assert result == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_p_true_asks_about_the_newest_stage_with_the_earlier_ones_but_summary() -> None:
    model = Fixed([-1.0], [-1.0])
    score(PTrue(), candidate("plan", "cap", "steps {question}"), model=model)
    assert model.asked[0].question == (
        f"{QUESTION}\nCaption: cap\nProposed reasoning: steps {{question}}\nIs it right? Answer yes or no."
    )
    assert not score(PTrue(), Candidate(), model=model)[0].scored and len(model.asked) == 1
    for same in ({"yes": "no"}, {"no": ""}):
        with pytest.raises(ConfigError):
            PTrue(**same)


# ------------------------------------------------------------------ rule


def test_rule_settings() -> None:
    assert value(Rule(pattern="x", stage="caption"), candidate("s", "x")) == 1.0
    assert value(Rule(pattern=r"^\d+$", predicate=lambda text: int(text) < 5), candidate("7")) == 0.0
    assert value(Rule(pattern="x"), Candidate()) is None
    for wrong in ({"pattern": "("}, {}):
        with pytest.raises(ConfigError, match="regular expression"):
            Rule(**wrong)


# ------------------------------------------------------------------ agreement


@pytest.mark.parametrize("seed", range(3))
def test_true_answers_of_the_little_world_agree_in_any_case(seed: int) -> None:
    for _, scene in zip(range(20), world.scenes("validation", seed), strict=False):
        texts = scene.stages.values()
        for written in (
            candidate(*texts),
            candidate(*(t.lower() for t in texts)),
            candidate(*(f" {t.upper()}  " for t in texts)),
        ):
            assert value(Agreement(), written, question=scene.question.text) == 1.0
        wrong = candidate(*list(texts)[:3], str(int(scene.answer) + 1))
        assert value(Agreement(), wrong, question=scene.question.text) == pytest.approx(2 / 3)


CAPTION = "a1 red square. b2 red circle. c3 red square."


@pytest.mark.parametrize(
    ("reasoning", "conclusion", "holds"),
    [
        ("1 a1 red square. 2 c3 red square. so 2.", "There are 2.", True),
        ("1 a1 red square.", None, True),  # not done yet
        ("1 a1 red square. 2 c3", None, False),
        ("1 c3 red square.", None, False),  # left one out
        ("1 a1 red square. 2 c3 red square. so 3.", None, False),
        ("1 a1 red square. 2 b2 red circle. so 2.", None, False),
        ("so 2.", None, False),
        ("1 a1 red square. 2 c3 red square. 3 d4 red square. so 3.", None, False),
    ],
)
def test_reasoning_against_caption(reasoning: str, conclusion: str | None, holds: bool) -> None:
    texts = ["s", CAPTION, reasoning, *([conclusion] if conclusion else [])]
    (result,) = score(Agreement(), candidate(*texts))
    assert result.details["reasoning follows from caption"] is holds


def test_subtraction_lists_what_is_left() -> None:
    asked = "Subtract all red squares. How many objects are left?"
    assert value(Agreement(), candidate("s", CAPTION, "1 b2 red circle. so 1.", "1"), question=asked) == 1.0
    assert value(Agreement(), candidate("s", CAPTION, "1 a1 red square. so 1.", "2"), question=asked) == pytest.approx(
        1 / 3
    )


def test_other_questions_are_not_checked_rather_than_wrong() -> None:
    photo = candidate("s", "A dog on a beach.", "It barks. so 3.", "A dog")
    assert not score(Agreement(), photo, question="Which animal is this?")[0].scored


def test_a_check_of_ones_own_may_give_a_score_or_a_number() -> None:
    def length(question: str, stages: Mapping[str, str]) -> float:
        return len(stages["SUMMARY"]) / len(question)

    assert value(Agreement(check=length), candidate("ab"), question="Why?") == 0.5
    assert value(Agreement(check=lambda q, s: Score(7.0, "mine")), candidate("ab")) == 7.0


# ------------------------------------------------------------------ callable


def test_functions_of_every_shape() -> None:
    def with_default(one: Candidate, factor: float = 2.0) -> float:
        return factor

    async def asynchronous(one: Candidate) -> bool:
        return True

    class Method:
        def judge(self, prompt: Prompt, one: Candidate) -> int:
            return len(prompt.question)

    for function, expected in (
        (with_default, 2.0), (functools.partial(with_default, factor=3.0), 3.0), (asynchronous, 1.0),
        (Method().judge, float(len(QUESTION))), (lambda *anything: len(anything), 1.0), (lambda one: math.nan, None),
        (lambda one: Score.unscored("no idea"), None),
    ):  # fmt: skip
        assert value(FunctionVerifier(function), candidate("a")) == expected
    for wrong in (lambda a, b, c: 1.0, "text"):
        with pytest.raises(ConfigError):
            FunctionVerifier(wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------ ensemble, by-stage


class Raising:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        raise self.error


class Giving:
    def __init__(self, *values: float | None) -> None:
        self.values = values

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [Score(v) if v is not None else Score.unscored("no word") for v in self.values]


@pytest.mark.parametrize("normalise", ["none", "z", "minmax"])
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Raising(ValueError("boom")), "boom"), (Raising(BudgetSpent("tokens")), "tokens"),
        (Giving(1.0), "2 candidates, but 1"), (Giving(math.nan, math.inf), "not finite"), (Giving(None, None), "no word"),
    ],
)  # fmt: skip
def test_a_member_that_gives_nothing_is_left_out_and_named(normalise: Any, broken: Any, said: str) -> None:
    pair = [candidate("a"), candidate("b")]
    alone = score(Ensemble({"good": Giving(1.0, 3.0)}, normalise=normalise), *pair)
    both = score(Ensemble({"good": Giving(1.0, 3.0), "bad": broken}, normalise=normalise), *pair)
    assert [s.value for s in both] == [s.value for s in alone]
    assert all(s.details["bad"] is None and said in s.details["left out"]["bad"] for s in both)
    nothing = score(Ensemble({"bad": broken}, normalise=normalise), *pair)
    assert not any(s.scored for s in nothing) and said in nothing[0].details["left out"]["bad"]


def test_scales_and_equal_scores() -> None:
    three = [candidate(text) for text in "abc"]
    z = score(Ensemble({"m": Giving(1.0, 2.0, 3.0)}), *three)
    assert [s.value for s in z] == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    for normalise in ("z", "minmax"):
        flat = score(Ensemble({"m": Giving(4.0, 4.0, 4.0)}, normalise=normalise), *three)  # type: ignore[arg-type]
        assert [s.value for s in flat] == [0.0] * 3
    with pytest.raises(ConfigError):
        Ensemble({"m": Giving()}, {"m": math.nan})
    with pytest.raises(ConfigError):
        Ensemble({"m": Giving()}, normalise="rank")  # type: ignore[arg-type]


def test_routes_have_a_default_and_each_verifier_is_asked_once() -> None:
    calls: list[int] = []

    class Counting(Giving):
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            calls.append(len(candidates))
            return [Score(float(i)) for i in range(len(candidates))]

    mixed = [candidate("s", "c"), candidate("s"), candidate("s", "c2")]
    assert [s.value for s in score(ByStage({"Caption": Counting()}, default=Giving(9.0)), *mixed)] == [0.0, 9.0, 1.0]
    assert calls == [2]
    assert "SUMMARY" in score(ByStage({}), candidate("s"))[0].reason


# ------------------------------------------------------------------ the package


def test_names_load_on_first_use_and_without_torch() -> None:
    assert all(isinstance(getattr(verifiers, name), type) for name in verifiers.__all__)
    assert (
        set(load_all("verifiers").values())
        <= {getattr(verifiers, n) for n in verifiers.__all__} | _notebook_functions()
    )
    assert name_of("verifiers", SelfCertainty) == "self-certainty"
    with pytest.raises(AttributeError):
        _ = verifiers.Nothing
    code = (
        "import sys, structdecode.verifiers as v; [getattr(v, n) for n in v.__all__];"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _notebook_functions() -> set[Any]:
    return {item for item in load_all("verifiers").values() if not isinstance(item, type)}
