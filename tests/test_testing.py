"""The shipped laws hold for what ships, and catch what breaks them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers import TransformersBackend
from structdecode.core.protocols import Decoder, Model
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Ranked, Schema, Score
from structdecode.pocket import checkpoint_path
from structdecode.testing import check_backend, check_strategy, check_verifier, scripted

NEEDS = {"rule": {"pattern": "c"}}


@pytest.mark.parametrize(
    "name",
    [
        "self-judge", "log-prob", "self-certainty", "picsar", "p-true", "rule", "agreement", "label-read", "generative",
        "consistency", "round-trip", "blindfold", "grounding", "premises", "math",
    ],
)  # fmt: skip
def test_built_in_verifiers(name: str) -> None:
    check_verifier(build("verifiers", name, NEEDS.get(name)))


@pytest.mark.parametrize(
    "name", ["direct", "cot", "staged", "best-of-n", "self-consistency", "stage-beam", "sentence-beam"]
)
def test_built_in_strategies(name: str) -> None:
    check_strategy(build("strategies", name))


def test_built_in_backends() -> None:
    check_backend(ScriptedBackend(scripted))
    check_backend(TransformersBackend.load(str(checkpoint_path())))


def test_law_breaking_verifiers_are_caught() -> None:
    class Wrong:
        def __init__(self, scores: list[Score]) -> None:
            self.scores = scores

        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            return self.scores

    for scores, message in (
        ([], "but 0 scores"),
        ([Score(math.nan)] * 4, "not finite"),
        ([Score(1.0)] * 4, "for no candidates"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_verifier(Wrong(scores))


def test_law_breaking_strategies_are_caught() -> None:
    class Forgetful:
        async def __call__(self, schema: Schema, decoder: Decoder) -> Sequence[Ranked]:
            return []

    with pytest.raises(AssertionError, match="no candidate"):
        check_strategy(Forgetful())
