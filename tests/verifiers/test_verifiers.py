from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Verifier
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.testing import EchoModel, candidate
from structdecode.verifiers.agreement import Agreement
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.log_prob import LogProb, SelfCertainty
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge, comparison, parse_verdict

QUESTION = Prompt("How many red squares are there?")


def score(verifier: Verifier, candidates: Sequence[Candidate], model: EchoModel | None = None) -> list[Score]:
    return list(asyncio.run(verifier.score(QUESTION, candidates, model or EchoModel())))


def values(*scores: Score) -> list[float | None]:
    return [s.value for s in scores]


def captions(*texts: str) -> list[Candidate]:
    return [candidate("plan", text, path=(0, i)) for i, text in enumerate(texts)]


def judge_that_likes(word: str) -> EchoModel:
    """Chooses the response with the word in it."""

    def reply(question: str) -> str:
        first = question.split("Response 1:")[1].split("Response 2:")[0]
        return f"Hm. I choose response {1 if word in first else 2}"

    return EchoModel(reply)


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("I choose response 1", 0), ("Because of it, I choose response 2.", 1), ("I CHOOSE RESPONSE 1!", 0),
        ("It says 'I choose response 1', but I choose response 2", 1), ("I choose  Response\n2", 1), ("I choose response **1**", 0),
        ("response 1", None), ("I choose response 3", None), ("I choose response 12", None), ("", None), ("both are fine", None),
    ],
)  # fmt: skip
def test_verdicts(reply: str, winner: int | None) -> None:
    assert parse_verdict(reply).winner == winner


@pytest.mark.parametrize("tournament", ["knockout", "round-robin"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_judge_finds_the_better_one_among_any_number(tournament: str, count: int) -> None:
    texts = [f"text {i}" for i in range(count - 1)] + ["good text"]
    scores = score(SelfJudge(tournament=tournament), captions(*texts), judge_that_likes("good"))  # type: ignore[arg-type]
    assert max(range(count), key=lambda i: scores[i].value or 0) == count - 1
    assert scores[-1].value == 1.0


def test_unreadable_verdicts_win_nothing_and_are_counted() -> None:
    scores = score(SelfJudge(), captions("a", "b", "c", "d"), EchoModel(lambda q: "I cannot say"))
    assert [s.details["wins"] for s in scores] == [0] * 4
    assert sum(s.details["unparseable"] for s in scores) == 6  # three matches, two in each
    robin = score(SelfJudge(tournament="round-robin"), captions("a", "b", "c"), EchoModel(lambda q: "?"))
    assert values(*robin) == [0.0] * 3


def test_a_judge_that_always_says_first_decides_nothing_in_both_orders() -> None:
    biased = EchoModel(lambda q: "I choose response 1")
    pair = captions("a", "b")
    assert sum(s.details["wins"] for s in score(SelfJudge(), pair, biased)) == 1
    assert sum(s.details["wins"] for s in score(SelfJudge(both_orders=True), pair, biased)) == 0
    fair = judge_that_likes("b")
    assert values(*score(SelfJudge(both_orders=True), pair, fair)) == [0.0, 1.0]


def test_reasoning_is_checked_alone_first() -> None:
    pair = [candidate("plan", "cap", text, path=(0, 0, i)) for i, text in enumerate(("bad", "good"))]
    seen: list[str] = []

    def reply(question: str) -> str:
        seen.append(question)
        return "incorrect" if "Proposed reasoning: bad" in question else "It is correct."

    assert values(*score(SelfJudge(), pair, EchoModel(reply))) == [0.0, 1.0]
    assert len(seen) == 2 and not any("Response 1" in question for question in seen)
    without = judge_that_likes("bad")
    assert values(*score(SelfJudge(pre_check=False), pair, without)) == [1.0, 0.0]


def test_a_reasoning_is_checked_alone_once_in_a_whole_tournament() -> None:
    four = [candidate("plan", "cap", text, path=(0, 0, i)) for i, text in enumerate("abcd")]
    model = EchoModel(lambda q: "It is correct." if "Proposed" in q else "I choose response 1")
    score(SelfJudge(), four, model)
    checked = [p.question for p in model.asked if "Proposed reasoning" in p.question]
    assert len(checked) == len(set(checked)) == 4


def test_pairing_is_the_same_each_time_and_not_by_position() -> None:
    four = captions("a", "b", "c", "d")
    models = [judge_that_likes("zzz") for _ in range(2)]
    for model in models:
        score(SelfJudge(), four, model)
    assert [p.question for p in models[0].asked] == [p.question for p in models[1].asked]


def test_stages_are_compared_with_a_hint_and_whole_answers_without() -> None:
    same = [candidate("s", "cap", text) for text in ("r1", "r2")]
    by_stage = comparison("Q?", *same)
    assert "Caption: cap\n" in by_stage and "Response 1: r1\n" in by_stage and "SUMMARY" not in by_stage
    different = [candidate("s", f"cap {i}", "r", "2") for i in (1, 2)]
    whole = comparison("Q?", *different)
    assert "Response 1: <SUMMARY> s" in whole and "cap 2" in whole
    braces = comparison("{hint} {first}?", *same)
    assert "{hint} {first}?" in braces


def test_log_prob_and_self_certainty_are_means_over_what_the_model_wrote() -> None:
    one = candidate("abc", "de")
    assert values(*score(LogProb(), [one])) == [-0.5]
    assert values(*score(SelfCertainty(scope="stage"), [one])) == [1.0]
    assert not score(LogProb(), [Candidate()])[0].scored


def test_p_true_is_the_share_of_yes() -> None:
    model = EchoModel(lambda question: "yes" if "Proposed caption: good" in question else "no")
    good, bad = score(PTrue(), captions("good", "bad"), model)
    expected = math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.3))
    assert good.value == pytest.approx(expected) and bad.value == pytest.approx(1 - expected)
    assert all("SUMMARY" not in prompt.question for prompt in model.asked)


def test_rule() -> None:
    assert values(*score(Rule(pattern=r"^\w+$"), captions("word", "two words"))) == [1.0, 0.0]
    assert values(*score(Rule(predicate=str.isdigit, stage="SUMMARY"), captions("x"))) == [0.0]
    assert not score(Rule(pattern="x", stage="CONCLUSION"), captions("x"))[0].scored


def test_agreement_knows_the_little_worlds_arithmetic() -> None:
    cap = "a1 red square. b2 red circle. c3 red square."
    steps = "a1 red square in 1. b2 red circle out 1. c3 red square in 2. so 2."
    right = candidate("s", cap, steps, "2")
    wrong_list = candidate("s", cap, "a1 red square in 1. so 1.", "1")
    wrong_end = candidate("s", cap, steps, "3")
    unreadable = candidate("s", "a1 red house.")
    assert values(*score(Agreement(), [right, wrong_list, wrong_end, unreadable])) == pytest.approx(
        [1.0, 2 / 3, 2 / 3, 0.0]
    )
    assert not score(Agreement(), [candidate("s")])[0].scored
    hook = Agreement(check=lambda question, stages: {"short": len(stages["SUMMARY"]) < 3})
    assert values(*score(hook, [right])) == [1.0]


def test_functions_plain_and_async() -> None:
    async def slow(prompt: Prompt, c: Candidate) -> Score:
        return Score(float(len(c.stages["CAPTION"])), "length")

    both = captions("a", "bb")
    assert values(*score(FunctionVerifier(slow), both)) == [1.0, 2.0]
    assert values(*score(FunctionVerifier(lambda c: c.last_stage == "CAPTION"), both)) == [1.0, 1.0]
    assert not score(FunctionVerifier(lambda c: None), both)[0].scored


def test_ensemble_weighs_and_leaves_out_what_is_not_scored() -> None:
    members = {
        "a": FunctionVerifier(lambda c: len(c.stages["CAPTION"])),
        "b": FunctionVerifier(lambda c: None if c.stages["CAPTION"] == "xxx" else 1.0),
    }
    plain = Ensemble(members, {"a": 3.0}, normalise="none")
    assert values(*score(plain, captions("x", "xxx"))) == pytest.approx([1.0, 3.0])
    scaled = score(Ensemble(members, normalise="minmax"), captions("x", "xx", "xxx"))
    assert scaled[2].value == 1.0 and scaled[2].details["b"] is None
    for wrong in (
        {"members": {}},
        {"members": members, "weights": {"c": 1.0}},
        {"members": members, "weights": {"a": 0.0}},
    ):
        with pytest.raises(ConfigError):
            Ensemble(**wrong)  # type: ignore[arg-type]


def test_each_stage_has_its_verifier() -> None:
    routed = ByStage({"caption": Rule(pattern="x"), "Reasoning": FunctionVerifier(lambda c: 5.0)})
    mixed = [*captions("x", "y"), candidate("s", "c", "r"), candidate("s")]
    assert values(*score(routed, mixed)) == [1.0, 0.0, 5.0, None]
