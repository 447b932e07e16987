"""Self-consistency counts by the rules that match answers to references."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Schema, Stage
from structdecode.matching.types import Question

ONE = Schema("one", (Stage.tagged("A"),))
COLOURS = {"A": "red", "B": "dark red", "C": "blue"}


def votes(answers: list[str], question: str = "?", **known: Any) -> dict[str, float | None]:
    """The share of the votes that each answer has, None where it has none."""
    given = iter(answers)

    def model(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        assert prompt.question == question
        return next(given) + stage.end

    strategy = build("strategies", "self-consistency", {"n": len(answers)})
    result = sd.decode(Prompt(question, **known), backend=ScriptedBackend(model), schema=ONE, strategy=strategy)
    return {r.candidate.answer(ONE): r.score.value for r in result.candidates}


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        (["1/2", "0.5", r"\frac{1}{2}"], {}),
        (["1/2", "0.5", r"\frac{1}{2}"], {"answer_kind": "number"}),
        ([".5", "0.5", "½"], {}),
        (["12 cm", "120 mm", "0.12 m"], {}),
        (["B.", r"\boxed{B}", "(B)", "The answer is B."], {}),
        (["B.", r"\boxed{B}", "dark red", "It is dark red."], {"options": list(COLOURS.values()), "answer_kind": "choice"}),
        (["Yes, there is no dog.", "Yes", r"\boxed{A}"], {"options": ["Yes", "No"], "answer_kind": "choice"}),
        (["60 degrees", r"$60^\circ$", "B"], {"options": ["45°", "60°"], "answer_kind": "choice"}),
    ],
)  # fmt: skip
def test_one_answer_in_other_words_is_one_vote(answers: list[str], known: dict[str, Any]) -> None:
    assert votes([*answers, "something else"], **known) == dict.fromkeys(answers, len(answers) / (len(answers) + 1)) | {
        "something else": None if known.get("answer_kind") in ("number", "choice") else 1 / (len(answers) + 1)
    }


@pytest.mark.parametrize(
    "answers",
    [
        ["5 percent", "5 apples", "5"],
        ["There are 5 dogs and 2 cats", "There are 7 dogs and 2 cats"],
        [".5", "5", "0.05"],
        ["12 cm", "12 m", "12"],
        [r"\frac{\pi}{6}", "6", r"6\pi"],
    ],
)
def test_different_answers_do_not_vote_together(answers: list[str]) -> None:
    assert votes(answers) == dict.fromkeys(answers, 1 / len(answers))


def test_what_the_question_counts_is_no_part_of_the_answer() -> None:
    assert votes(["5 dogs", "5", "4 dogs"], "How many dogs are there?")["5 dogs"] == pytest.approx(2 / 3)


def test_an_answer_that_declines_or_names_several_has_no_vote() -> None:
    known = {"options": list(COLOURS.values()), "answer_kind": "choice"}
    assert votes(["I don't know.", "A or C", "C"], **known) == {"C": pytest.approx(1 / 3), "I don't know.": None, "A or C": None}  # fmt: skip


def test_a_question_tells_its_prompt_the_options_and_the_kind() -> None:
    asked = Question("1", "Which?", ("B",), options=COLOURS).prompt()
    assert (asked.options, asked.answer_kind, asked.question) == (("red", "dark red", "blue"), "choice", "Which?")
    assert Question("1", "Which?", ("A, C",), options=COLOURS).prompt().answer_kind == "set"
    assert Question("1", "Which?", ("C",), options={"A": "red", "C": "blue"}).prompt().options == ("red", "", "blue")
    assert Question("1", "Which?", ("1",), options={"1": "red", "2": "blue"}).prompt().options == ()
    plain = Question("1", "How many?", ("4",)).prompt()
    assert (plain.options, plain.answer_kind) == ((), None), "what the references look like is not told"


def test_options_and_kind_are_neither_shown_nor_traced() -> None:
    def traced(**known: Any) -> Any:
        backend = ScriptedBackend(lambda prompt, prefix, stage, seed: f"B{stage.end}")
        strategy = build("strategies", "self-consistency", {"n": 2})
        result = sd.decode(Prompt("Which?", **known), backend=backend, schema=ONE, strategy=strategy)
        candidates = [event for event in result.trace.events if event["kind"] == "candidate"]
        return result.answer, result.usage.prefilled_tokens, result.trace.header, candidates

    told, plain = traced(options=["red", "blue"], answer_kind="choice"), traced()
    assert told == plain
    assert "blue" not in str(told)


def test_votes_need_no_extra() -> None:
    code = (
        "import sys; sys.modules['sympy'] = sys.modules['math_verify'] = None\n"
        "import structdecode.strategies.self_consistency\n"
        "from structdecode.matching import answer_key\n"
        "assert answer_key(r'\\frac{1}{2}') == answer_key('0.5')\n"
        "assert answer_key('$x^2-1$', 'latex') == answer_key('(x-1)(x+1)', 'latex')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
