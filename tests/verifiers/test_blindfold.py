from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.budget import Budget
from structdecode.core.errors import BudgetSpent, ConfigError
from structdecode.core.lookup import load_backend
from structdecode.core.types import Candidate, Prompt, Stage
from structdecode.pocket import world
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.training.rewards import as_reward
from structdecode.verifiers import prompts
from structdecode.verifiers.blindfold import Blindfold
from tests.verifiers.asking import ask, values

SCENE = next(world.scenes("test"))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
CAPTIONS = ("a1 red square.", "a1 red square. b2 red square.")


def counts(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    """A "model" that counts squares in what it is shown, and is wrong one time in five."""
    assert not prompt.images, "the picture is shown"
    return str(prompt.question.count("red square.") if seed % 5 else 9)


COUNTS = ScriptedBackend(counts)


def answered(caption: str, answer: str, summary: str = "Count.") -> Candidate:
    return candidate(summary, caption, "So.", answer)


def test_the_answer_is_held_against_what_follows_from_the_caption_alone() -> None:
    given = [
        answered(CAPTIONS[0], "1"),
        answered(CAPTIONS[0], "2"),
        answered(CAPTIONS[1], "2"),
        answered(CAPTIONS[1], "two"),
    ]
    scores, _ = ask(Blindfold("agreement", samples=25), PROMPT, given, COUNTS)
    assert 0.5 < scores[0].value < 1 and 0.5 < scores[2].value == scores[3].value < 1  # type: ignore[operator]
    assert scores[1].value == 0.0
    assert [score.details["agrees"] for score in scores] == [True, False, True, True]
    assert [score.details["blind"] for score in scores] == ["1", "1", "2", "2"]
    assert scores[0].reason == f"{round(25 * scores[0].value)} of 25 blind replies agree"  # type: ignore[operator]
    assert all(score.resolution == 0 and score.details["probability"] == math.exp(-1) for score in scores)


def test_one_without_an_answer_is_scored_by_how_sure_the_blind_model_is() -> None:
    begun = [candidate("Count.", CAPTIONS[0]), candidate("Count."), candidate("Count.", CAPTIONS[0], "So.")]
    scores, _ = ask(Blindfold("agreement", samples=25), PROMPT, begun, COUNTS)
    full, _ = ask(Blindfold("agreement", samples=25), PROMPT, [answered(CAPTIONS[0], "1")], COUNTS)
    assert values(scores) == [full[0].value, None, full[0].value]
    assert scores[1].reason == "no CAPTION yet" and "agrees" not in scores[0].details
    sure, _ = ask(Blindfold(), PROMPT, begun, COUNTS)
    assert values(sure) == [math.exp(-1), None, math.exp(-1)], "every scripted token has log-probability -1"
    assert not ask(Blindfold(), PROMPT, begun[1:2], COUNTS)[1].model_calls, "nothing to ask"
    empty = ScriptedBackend(lambda *asked: "")
    assert values(ask(Blindfold(), PROMPT, begun[:1], empty)[0]) == [None]
    assert values(ask(Blindfold("agreement"), PROMPT, begun[:1], empty)[0]) == [0.0]
    declined = answered(CAPTIONS[0], "I cannot help with that.")
    assert ask(Blindfold("agreement"), PROMPT, [declined], COUNTS)[0][0].reason == "CONCLUSION gives no answer"


def test_probability_is_the_models_own_of_the_answers_text() -> None:
    """Held against a session of the same backend, asked by hand."""
    backend = load_backend(None, device="cpu")
    given = [candidate(*SCENE.stages.values()), candidate(*list(SCENE.stages.values())[:3], "3 of 4")]
    shown = prompts.hint_lines({name: SCENE.stages[name] for name in ("SUMMARY", "CAPTION")})
    blind = Prompt(f"{SCENE.question.text}\n{shown}Answer directly.")

    class ByHand:
        async def score(self, prompt: Prompt, candidates: Any, model: Any) -> Any:
            return await model.log_probs(blind, [SCENE.answer, "3 of 4"])

    one, three = ask(ByHand(), PROMPT, given, backend)[0]
    assert len(three) > 1  # type: ignore[arg-type]
    mean, _ = ask(Blindfold(diagnose=False), PROMPT, given, backend)
    assert values(mean) == pytest.approx([math.exp(sum(v) / len(v)) for v in (one, three)], rel=1e-4)  # type: ignore[arg-type]
    whole, _ = ask(Blindfold(normalise=False), PROMPT, given, backend)
    assert values(whole) == pytest.approx([math.exp(sum(v)) for v in (one, three)], rel=1e-4)  # type: ignore[arg-type]
    assert whole[0].details["probability"] == whole[0].value and whole[0].details["blind"]


def test_what_is_alike_is_asked_once_and_what_is_not_wanted_is_not_asked() -> None:
    given = [
        answered(CAPTIONS[0], "1"),
        answered(CAPTIONS[0], "1"),
        answered(CAPTIONS[0], "2"),
        answered(CAPTIONS[1], "2"),
    ]
    model = EchoModel(lambda question: "1")
    scores = asyncio.run(Blindfold(diagnose=False).score(PROMPT, given, model))
    questions = [prompt.question for prompt in model.asked]
    assert len(questions) == len(set(questions)) == 2 and not any(prompt.images for prompt in model.asked)
    assert CAPTIONS[0] in questions[0] and "Summary: Count." in questions[0] and "So." not in questions[0]
    assert values(scores) == pytest.approx([math.exp(-0.1), math.exp(-0.1), math.exp(-2.3), math.exp(-2.3)])
    assert scores[0].details == {"probability": scores[0].value}
    model = EchoModel(lambda question: "1")
    assert asyncio.run(Blindfold("agreement", diagnose=False).score(PROMPT, given, model))[0].details == {
        "blind": "1",
        "agrees": True,
    }
    assert len(model.asked) == 2
    _, cost = ask(Blindfold(), PROMPT, given, COUNTS)
    assert cost.images_encoded == 0 and cost.model_calls == 4 and cost.generated_tokens == 2


def test_the_control_says_what_the_caption_adds() -> None:
    given = [answered(CAPTIONS[1], "2"), answered(CAPTIONS[0], "0")]
    verifier = Blindfold("agreement", samples=25, control=True)
    scores, cost = ask(verifier, PROMPT, given, COUNTS)
    assert scores[0].details["alone"] == 0.0 and scores[0].details["gain"] == scores[0].value
    assert scores[1].value == 0.0 and scores[1].details["gain"] == -scores[1].details["alone"] < -0.5
    assert (
        cost.generated_tokens == 25 * 3
        and "alone" not in ask(Blindfold("agreement"), PROMPT, given, COUNTS)[0][0].details
    )
    (likely,), _ = ask(Blindfold(control=True), PROMPT, given[:1], COUNTS)
    assert likely.details["alone"] == likely.value and likely.details["gain"] == 0.0


def test_options_and_history_are_kept() -> None:
    asked = Prompt("Which? A. cat B. dog", [SCENE.render()], options=("cat", "dog"))
    (score,), _ = ask(Blindfold("agreement"), asked, [answered("A dog.", "B")], ScriptedBackend(lambda *a: "dog"))
    assert score.value == 1.0


def test_laws_and_limits() -> None:
    for read in ("probability", "agreement"):
        check_verifier(Blindfold(read))  # type: ignore[arg-type]
    with pytest.raises(BudgetSpent):
        ask(Blindfold("agreement"), PROMPT, [answered(CAPTIONS[0], "1")], COUNTS, Budget(tokens=0))
    for wrong in (
        {"samples": 0},
        {"temperature": 0.0, "read": "agreement"},
        {"shown": ()},
        {"answer": "CAPTION"},
        {"max_tokens": 0},
    ):
        with pytest.raises(ConfigError, match=r"samples|temperature|shown|max_tokens"):
            Blindfold(**wrong)  # type: ignore[arg-type]


def test_it_is_a_reward_by_its_name() -> None:
    """Completions are text; no picture is looked at, and without a backend it is said at once."""
    completion = "".join(
        f"<{s}> {t} </{s}>" for s, t in zip(SCENE.stages, ("Count.", CAPTIONS[0], "So.", "1"), strict=True)
    )
    reward = as_reward("blindfold", COUNTS, sync=True)
    found = reward(
        prompts=["How many red squares are there?"] * 2,
        completions=[completion, "nothing"],
        images=[[SCENE.render()]] * 2,
    )
    assert found == [pytest.approx(math.exp(-1)), None] and reward.__name__ == "blindfold"
    with pytest.raises(ConfigError, match="'blindfold' asks a model: give as_reward a backend"):
        as_reward("blindfold")
