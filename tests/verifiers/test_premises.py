from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from structdecode.core.errors import ConfigError
from structdecode.core.lookup import load_backend
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.pocket import world
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.premises import Premises
from structdecode.verifiers.rule import Rule
from tests.verifiers.asking import ask, values

SCENE = next(world.scenes("test"))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
TRUE, FALSE = 1 / (1 + pow(2.718281828459045, -2.2)), 1 / (1 + pow(2.718281828459045, 2.2))


def looking() -> EchoModel:
    """Says yes to claims of red things."""
    return EchoModel(lambda question: "yes" if "red" in question else "no")


@dataclass(frozen=True)
class Steps:
    """Scores by what a candidate's newest stage says."""

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        return [
            Score(float(c.stages[c.last_stage]), "read", {"mine": 1}) if c.last_stage != "SUMMARY" else Score(0.5)
            for c in candidates
        ]


def score(verifier: Premises, given: Sequence[Candidate], model: Any = None, prompt: Prompt = PROMPT) -> list[Score]:
    return asyncio.run(verifier.score(prompt, given, model or looking()))


def test_a_caption_is_scored_by_its_claims_and_later_stages_by_theirs_times_that() -> None:
    caption = "A red ball. A blue box! Is it red?"
    given = [
        candidate("s", caption),
        candidate("s", caption, "0.8"),
        candidate("s", caption, "x", "-1"),
        candidate("s"),
    ]
    scores = score(Premises(Steps(), one_sided=False), given)
    mean = (2 * TRUE + FALSE) / 3
    assert values(scores) == pytest.approx([mean, 0.8 * mean, -mean, 0.5])
    assert scores[0].details["claims"] == pytest.approx({"A red ball": TRUE, "A blue box": FALSE, "Is it red": TRUE})
    assert scores[0].reason == "least sure: A blue box"
    assert scores[1].reason == "read" and scores[1].details["step"] == 0.8 and scores[1].details["mine"] == 1
    assert scores[1].details["premises"] == pytest.approx(mean) and scores[3] == Score(0.5)
    assert values(score(Premises(Steps()), given)) == pytest.approx([mean, 0.8 * mean, -1, 0.5]), "only lowers"


@pytest.mark.parametrize(
    ("aggregate", "severe", "expected"),
    [
        ("min", 0.2, FALSE), ("product", 0.2, TRUE * FALSE * FALSE), ("contradictions", 0.2, 0.0),
        ("contradictions", 0.0, 0.6), ("mean", 0.2, (TRUE + 2 * FALSE) / 3),
    ],
)  # fmt: skip
def test_aggregates(aggregate: Any, severe: float, expected: float) -> None:
    """Of one claim that is true and two that are contradicted, severely or not."""
    given = [candidate("s", "A red ball. A blue box. A green box.")]
    assert values(score(Premises(Steps(), aggregate=aggregate, severe=severe), given)) == pytest.approx([expected])


def test_no_more_contradictions_than_there_can_be() -> None:
    given = [candidate("s", " ".join(f"A blue box {n}." for n in range(6)), "1")]
    assert values(score(Premises(Steps(), aggregate="contradictions"), given)) == [0.0]


def test_each_claim_is_asked_once_a_call_whoever_makes_it() -> None:
    model = looking()
    given = [
        candidate("s", "A red ball. A box."),
        candidate("s", "A box. A red ball. A box."),
        candidate("t", "A box.", "1"),
    ]
    score(Premises(Steps()), given, model)
    questions = [prompt.question for prompt in model.asked]
    assert questions == [
        f"Is this true of the picture? Answer yes or no.\n{claim}" for claim in ("A red ball", "A box")
    ]
    assert all(prompt.images == PROMPT.images for prompt in model.asked)
    model = looking()
    score(Premises(Steps(), template="{question} {claim}", yes="ja", no="nein"), given[:1], model)
    assert [prompt.question for prompt in model.asked] == [f"{PROMPT.question} A red ball", f"{PROMPT.question} A box"]


def test_where_there_is_nothing_to_audit_nothing_is_gated() -> None:
    bare = Prompt("How many?")
    assert score(Premises(Steps()), [candidate("s", "A box."), candidate("s", "A box.", "1")], prompt=bare) == [
        Score.unscored("there is no picture"), Score(1.0, "read", {"mine": 1}),
    ]  # fmt: skip
    silent = [candidate("s", ". ."), candidate("s", "", "1")]
    assert score(Premises(Steps()), silent) == [
        Score.unscored("CAPTION claims nothing"),
        Score(1.0, "read", {"mine": 1}),
    ]
    unscored = Premises(Rule("x", stage="PLAN"))
    assert score(unscored, [candidate("s", "A box.", "1")]) == [Score.unscored("no stage 'PLAN' yet")]


def test_a_true_caption_of_the_pocket_world_is_truer_than_a_false_one() -> None:
    backend = load_backend(None, device="cpu")
    found = []
    for scene in (s for _, s in zip(range(8), world.scenes("test", 5), strict=False)):
        false = [
            f"{t.split()[0]} {'blue' if 'red' in t else 'red'} {t.split()[2]}"
            for t in scene.stages["CAPTION"].split(". ")
        ]
        given = [candidate("s", scene.stages["CAPTION"]), candidate("s", ". ".join(false))]
        (true, wrong), cost = ask(Premises(), Prompt(scene.question.text, [scene.render()]), given, backend)
        found.append(true.value > wrong.value)  # type: ignore[operator]
        assert cost.generated_tokens == 0 and cost.images_encoded <= 1
    assert sum(found) >= 7


def test_laws_and_mistakes() -> None:
    check_verifier(Premises(), model=looking(), prompt=PROMPT)
    check_verifier(Premises())
    assert Premises("p-true") == Premises()  # type: ignore[arg-type]
    for wrong in ({"severe": 0.6}, {"yes": "no"}, {"aggregate": "max"}, {"verifier": 3}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Premises(**wrong)  # type: ignore[arg-type]
