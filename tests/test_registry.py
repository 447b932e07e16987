from __future__ import annotations

import dataclasses

import pytest

from structdecode import registry
from structdecode.errors import ConfigError, UnknownNameError
from structdecode.strategies.stage_beam import StageBeam
from structdecode.verifiers.p_true import PTrue


def test_every_entry_point_loads() -> None:
    for group in registry.GROUPS:
        for name in registry.names(group):
            assert registry.load(group, name) is not None
    assert len(registry.names("strategies")) >= 7
    assert len(registry.names("verifiers")) >= 9


def test_texts_become_the_fields_types() -> None:
    made = registry.build(
        "strategies", "stage-beam", {"candidates": "6", "temperature": "0.5", "top_k": "none", "verifier": "p-true"}
    )
    assert made == StageBeam(candidates=6, temperature=0.5, top_k=None, verifier=PTrue())
    judge = registry.build("verifiers", "self-judge", {"both_orders": "true", "tournament": "round-robin"})
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
        ("verifiers", "ensemble", {"members": "a"}, "use the Python interface"),
    ],
)
def test_bad_settings_say_what_and_how(
    group: registry.Group, name: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build(group, name, settings)


def test_decorators_return_what_they_decorate_and_register_it() -> None:
    @registry.verifier("likes-a")
    def likes_a(candidate: object) -> float:
        return 1.0

    @registry.strategy("mine")
    @dataclasses.dataclass(frozen=True)
    class Mine:
        n: int = 2

    assert likes_a(None) == 1.0
    assert registry.build("verifiers", "likes-a").function is likes_a
    assert registry.build("strategies", "mine", {"n": "3"}) == Mine(3)
    assert registry.name_of("strategies", Mine) == "mine"
    assert registry.name_of("verifiers", PTrue) == "p-true"
    with pytest.raises(UnknownNameError, match="likes-a"):
        registry.load("verifiers", "like-a")
