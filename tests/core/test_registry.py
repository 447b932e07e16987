from __future__ import annotations

import dataclasses
import functools

import pytest

from structdecode.core import registry
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.labels import label_of
from structdecode.core.protocols import PairwiseJudge, Verifier
from structdecode.core.settings import build, verifier_from
from structdecode.strategies.stage_beam import StageBeam
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.log_prob import LogProb
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge
from structdecode.verifiers.tournaments import Knockout


def test_every_entry_point_loads() -> None:
    for group in registry.GROUPS:
        for name in registry.names(group):
            assert registry.load(group, name) is not None
    assert len(registry.names("strategies")) >= 7
    assert len(registry.names("verifiers")) >= 9


def test_texts_become_the_fields_types() -> None:
    made = build(
        "strategies", "stage-beam", {"candidates": "6", "temperature": "0.5", "top_k": "none", "verifier": "p-true"}
    )
    assert made == StageBeam(candidates=6, temperature=0.5, top_k=None, verifier=PTrue())
    judge = build("verifiers", "self-judge", {"both_orders": "true", "tournament": "round-robin"})
    assert (judge.both_orders, judge.tournament) == (True, "round-robin")


@pytest.mark.parametrize(
    ("group", "name", "settings", "message"),
    [
        ("strategies", "nope", {}, "unknown strategy 'nope'"),
        ("strategies", "stage-beam", {"candidate": "2"}, "did you mean 'candidates'"),
        ("strategies", "stage-beam", {"candidates": "two"}, "candidates must be a whole number"),
        ("strategies", "stage-beam", {"candidates": "0"}, "candidates must be at least 1, not 0"),
        ("strategies", "stage-beam", {"beams": "5"}, "beams must be from 1 to candidates"),
        ("strategies", "best-of-n", {"n": "0"}, "n must be at least 1, not 0"),
        ("strategies", "self-consistency", {"n": "-3"}, "n must be at least 1"),
        ("strategies", "sentence-beam", {"max_sentences": "0"}, "max_sentences must be at least 1"),
        ("strategies", "staged", {"temperature": "-1"}, "temperature must be 0"),
        ("strategies", "staged", {"temperature": "hot"}, "temperature must be a number or none"),
        ("strategies", "staged", {"top_p": "1.5"}, "top_p must be above 0"),
        ("strategies", "staged", {"max_tokens": "0"}, "max_tokens must be at least 1"),
        ("verifiers", "self-judge", {"tournament": "cup"}, "one of knockout, round-robin"),
        ("verifiers", "self-judge", {"both_orders": "maybe"}, "true or false"),
        ("verifiers", "log-prob", {"scope": "word"}, "one of answer, stage"),
        ("verifiers", "rule", {}, "needs a pattern"),
        ("verifiers", "rule", {"pattern": "("}, "not a regular expression"),
        ("verifiers", "ensemble", {}, "needs members"),
        ("verifiers", "ensemble", {"members": "a"}, "members must be {key: value, ...}, not 'a'"),
    ],
)
def test_bad_settings_say_what_and_how(
    group: registry.Group, name: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(group, name, settings)


def test_decorators_return_what_they_decorate_and_register_it() -> None:
    @registry.verifier("likes-a")
    def likes_a(candidate: object) -> float:
        return 1.0

    @registry.strategy("mine")
    @dataclasses.dataclass(frozen=True)
    class Mine:
        n: int = 2

    assert likes_a(None) == 1.0
    assert build("verifiers", "likes-a").function is likes_a
    assert build("strategies", "mine", {"n": "3"}) == Mine(3)
    assert registry.name_of("strategies", Mine) == "mine"
    assert registry.name_of("verifiers", PTrue) == "p-true"
    with pytest.raises(UnknownNameError, match="likes-a"):
        registry.load("verifiers", "like-a")


NESTED = ByStage({"caption": Ensemble({"a": LogProb("stage"), "b": Rule("7")}, {"a": 2.0})}, default=PTrue())


@pytest.mark.parametrize(
    "given",
    [
        {"by-stage": {"routes": {"caption": {"ensemble": {"members": {"a": {"log-prob": {"scope": "stage"}}, "b": {"rule": {"pattern": 7}}}, "weights": {"a": 2}}}}, "default": "p-true"}},
        {"name": "by-stage", "routes": {"caption": {"name": "ensemble", "members": {"a": {"name": "log-prob", "scope": "stage"}, "b": {"name": "rule", "pattern": "7"}}, "weights": {"a": "2"}}}, "default": {"p-true": None}},
        "{by-stage: {routes: {caption: {ensemble: {members: {a: {log-prob: {scope: stage}}, b: {rule: {pattern: 7}}}, weights: {a: 2}}}}, default: p-true}}",
        '{"name": "by-stage", "default": "p-true", "routes": {"caption": {"ensemble": {"members": {"a": {"log-prob": {"scope": "stage"}}, "b": {"rule": {"pattern": "7"}}}, "weights": {"a": 2}}}}}',
    ],
)  # fmt: skip
def test_verifiers_inside_verifiers_are_read_in_every_form(given: object) -> None:
    assert verifier_from(given) == NESTED


def test_keys_with_dots_reach_inside() -> None:
    settings = {
        "routes.caption": "ensemble", "routes.caption.members": "{a: log-prob, b: {rule: {pattern: '8'}}}",
        "routes.caption.members.a.scope": "stage", "routes.caption.members.b.pattern": "7",
        "routes.caption.weights.a": "2", "default": "p-true",
    }  # fmt: skip
    assert verifier_from("by-stage", settings) == NESTED
    made = build("strategies", "stage-beam", {"verifier": "log-prob", "verifier.scope": "stage"})
    assert made.verifier == LogProb("stage")


def test_settings_that_are_lists_of_verifiers_and_judges_are_read_too() -> None:
    @registry.verifier("first-of")
    @dataclasses.dataclass(frozen=True)
    class FirstOf:
        members: tuple[Verifier, ...]
        judge: PairwiseJudge | None = None

    made = verifier_from({"first-of": {"members": ["log-prob", {"rule": {"pattern": "7"}}], "judge": "self-judge"}})
    assert made == FirstOf((LogProb(), Rule("7")), SelfJudge())
    assert label_of(made) == "first-of(log-prob, rule, judge=self-judge)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ensemble": {"members": {"a": "log-pro"}}}, "ensemble: members.a: unknown verifier 'log-pro'; did you mean 'log-prob'"),
        ({"ensemble": {"members": {"a": {"log-prob": {"scop": "x"}}}}}, "ensemble: members.a: unknown setting of 'log-prob' 'scop'"),
        ({"by-stage": {"routes": {"x": {"ensemble": {"members": {"b": 5}}}}}}, "by-stage: routes.x: ensemble: members.b must be a Verifier"),
        ({"by-stage": {"routes": {}, "default": "p-tru"}}, "by-stage: default: unknown verifier 'p-tru'"),
        ({"by-stage": {"routes": ["log-prob"]}}, "by-stage: routes must be"),
        ({"ensemble": {"members": {"a": "log-prob"}, "weights": {"a": "much"}}}, "ensemble: weights.a must be a number"),
        ({"ensemble": {"members": {"a": "log-prob"}, "weights": {"a": True}}}, "ensemble: weights.a must be a number"),
        ({"self-judge": {"max_tokens": 2.5}}, "self-judge: max_tokens must be a whole number, not 2.5"),
        ({"self-judge": {"both_orders": 3}}, "self-judge: both_orders must be true or false"),
        ({"log-prob": {}, "p-true": {}}, "a verifier is a name, {name: settings} or a mapping with 'name'"),
        ("[log-prob]", "a verifier is a name"),
        ("{ensemble: {members", "is not a mapping or list"),
    ],
)  # fmt: skip
def test_mistakes_inside_say_where(given: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        verifier_from(given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_verifier_goes_by() -> None:
    @registry.verifier("likes-b")
    def named(candidate: object) -> float:
        return 1.0

    def plain(candidate: object) -> float:
        return 1.0

    label = label_of
    assert label(build("verifiers", "likes-b")) == "likes-b"
    assert label(FunctionVerifier(plain)) == "plain"
    assert label(FunctionVerifier(functools.partial(functools.partial(plain), 1))) == "plain"
    assert label(FunctionVerifier(lambda candidate: 1.0)) == "<lambda>"
    assert label(PTrue()) == "p-true" and label(Knockout(SelfJudge())) == "Knockout(judge=self-judge)"
    assert label(NESTED) == "by-stage(caption=ensemble(a=log-prob, b=rule), default=p-true)"
    assert label(Ensemble({"log-prob": LogProb(), "plain": FunctionVerifier(plain)})) == "ensemble(log-prob, plain)"
    registry.verifier("kept")(made := Ensemble({"p-true": PTrue()}))
    assert label(made) == "kept(p-true)"
    assert label(PTrue(), "alias") == "alias"
