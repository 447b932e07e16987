"""Verifiers that ask the model at hand: what they ask, what they make of the replies, and what it costs."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers import TransformersBackend
from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Verifier
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Sampling, Score, Span
from structdecode.pocket import checkpoint_path, world
from structdecode.testing import EchoModel, candidate
from structdecode.verifiers import decisions
from structdecode.verifiers.consistency import Consistency
from structdecode.verifiers.generative import Generative
from structdecode.verifiers.label_read import LabelQuestion, LabelRead
from structdecode.verifiers.round_trip import RoundTrip

PICTURE = Image.new("RGB", (8, 8), "red")
QUESTION = Prompt("How many red squares are there?", [PICTURE])
WHOLE = candidate("plan", "a1 red square.", "a1 red square in 1. so 1.", "1")
READING = {"choice": ("good", "fair", "bad"), "score": ("bad", "fair", "good")}

LogProbs = Callable[[Prompt, str], float]


class Judge(EchoModel):
    """A model with a log-probability for each text, and with replies that it gives in turn."""

    def __init__(self, log_prob: LogProbs = lambda prompt, text: -1.0, replies: Sequence[str] = ("",)) -> None:
        super().__init__()
        self.log_prob, self.replies = log_prob, replies

    async def complete(self, prompt: Prompt, *, n: int = 1, sampling: Sampling, stop: Sequence[str] = ()) -> list[Span]:
        self.asked.append(prompt)
        return [Span("REPLY", self.replies[i % len(self.replies)]) for i in range(n)]

    async def log_probs(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        self.asked.append(prompt)
        return [[self.log_prob(prompt, text)] for text in continuations]


def score(verifier: Verifier, given: Candidate, model: EchoModel, prompt: Prompt = QUESTION) -> Score:
    (found,) = asyncio.run(verifier.score(prompt, [given], model))
    return found


def says(label: str, probability: float = 0.8) -> LogProbs:
    return lambda prompt, text: math.log(probability if text == label else (1 - probability) / 4)


# ------------------------------------------------------------------ label-read


def test_the_score_is_the_labels_own_softmax_and_their_mass_is_told() -> None:
    model = Judge(lambda prompt, text: math.log({"yes": 0.3, "no": 0.1}[text]))
    found = score(LabelRead(), WHOLE, model)
    assert found.value == pytest.approx(0.75)
    assert found.details["label_mass"] == pytest.approx(0.4)
    assert found.details["confidence"] == pytest.approx(0.3) and found.details["answer"] == "yes"
    assert found.details["probabilities"] == pytest.approx({"yes": 0.75, "no": 0.25})
    assert score(LabelRead(right=("no",)), WHOLE, model).value == pytest.approx(0.25)


def test_what_is_asked() -> None:
    model = Judge()
    score(LabelRead(instructions="Is this {stage} ({text}) of {question} right?"), candidate("s", "c", "r"), model)
    score(LabelRead(kind="choice", options=("yes {stage}", "no"), right=("no",), both_orders=False), WHOLE, model)
    score(LabelRead(kind="score", options=("bad", "good")), WHOLE, model)
    yes_no, choice, level = (prompt.question for prompt in model.asked)
    question = "How many red squares are there?"
    assert yes_no == (
        f"{question}\nCaption: c\nProposed reasoning: r\n\n"
        f"Question: Is this reasoning (r) of {question} right?\nAnswer with yes or no only."
    )
    assert choice.endswith(
        "\n\nQuestion: Is it right?\nA: yes {stage}\nB: no\nAnswer with the letter of one option only."
    )
    assert level.endswith("\n\nQuestion: Is it right?\n0: bad\n1: good\nAnswer with the number of one level only.")
    assert all(prompt.images == QUESTION.images for prompt in model.asked)


def test_a_choice_in_both_orders_is_not_decided_by_the_letter() -> None:
    verifier = LabelRead(kind="choice", options=READING["choice"], right=("good",))
    one_way = LabelRead(kind="choice", options=READING["choice"], right=("good",), both_orders=False)
    likes_a = Judge(says("A"))
    assert score(one_way, WHOLE, likes_a).value == pytest.approx(0.8 / 0.9)
    found = score(verifier, WHOLE, likes_a).details["probabilities"]
    assert found["good"] == pytest.approx(found["bad"]) and found["fair"] == pytest.approx(0.05 / 0.9)
    knows = Judge(lambda prompt, text: 0.0 if f"\n{text}: good" in prompt.question else -9.0)
    assert score(verifier, WHOLE, knows).value == pytest.approx(1, abs=1e-3)
    assert score(verifier, WHOLE, knows).details["answer"] == "good"


def test_a_score_is_the_expected_level() -> None:
    verifier = LabelRead(kind="score", options=READING["score"])
    model = Judge(lambda prompt, text: math.log({"0": 0.1, "1": 0.2, "2": 0.2}[text]))
    assert score(verifier, WHOLE, model).value == pytest.approx((0.4 * 1 + 0.4 * 2) / 2)
    at_least = LabelRead(kind="score", options=READING["score"], right=("fair", "good"))
    assert score(at_least, WHOLE, model).value == pytest.approx(0.8)


def test_a_label_of_several_tokens_has_the_sum_of_their_log_probabilities() -> None:
    backend = ScriptedBackend(lambda *_: "1 </CONCLUSION>")  # a token a character, each of log-probability -1
    result = sd.decode(QUESTION, backend=backend, strategy=build("strategies", "best-of-n", {"verifier": LabelRead()}))
    assert result.candidates[0].score.value == pytest.approx(1 / (1 + math.e))


def test_a_rubric_is_the_weighted_mean_of_its_questions() -> None:
    rubric = LabelRead(
        questions={
            "true": "Is the caption true?",
            "used": LabelQuestion("Is it used?", right=("no",)),
            "level": {"instructions": "How good is it?", "kind": "score", "options": ["bad", "good"]},  # type: ignore[dict-item]
        },
        weights={"true": 2},
    )
    model = Judge(lambda prompt, text: math.log({"yes": 0.9, "no": 0.1, "0": 0.5, "1": 0.5}[text]))
    found = score(rubric, WHOLE, model)
    assert found.value == pytest.approx((2 * 0.9 + 0.1 + 0.5) / 4)
    assert {name: part["value"] for name, part in found.details.items()} == pytest.approx(
        {"true": 0.9, "used": 0.1, "level": 0.5}
    )
    state = "How many red squares are there?\nCaption: a1 red square.\nReasoning: a1 red square in 1. so 1.\nProposed conclusion: 1\n\n"
    assert all(prompt.question.startswith(state) for prompt in model.asked)


def test_a_rubric_is_written_as_settings() -> None:
    written = build(
        "verifiers", "label-read",
        {
            "questions": "{caption: 'Is it true?', level: {kind: score, options: [bad, good]}}",
            "questions.level.instructions": "How good?", "weights.level": "2",
        },
    )  # fmt: skip
    assert written == LabelRead(
        questions={"caption": "Is it true?", "level": LabelQuestion("How good?", "score", ("bad", "good"))},
        weights={"level": 2.0},
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "both"}, "kind must be one of yes-no, choice, score"),
        ({"options": ["a", "b"]}, "options go with kind choice or score"),
        ({"kind": "choice", "options": ["a"], "right": ["a"]}, "2 to 26 texts, not 1"),
        ({"kind": "score", "options": [str(i) for i in range(11)]}, "2 to 10 texts, not 11"),
        ({"kind": "choice", "options": ["a", "a"], "right": ["a"]}, "options must differ"),
        ({"kind": "choice", "options": ["a", "b"]}, "right names some of a, b, at least one"),
        ({"kind": "choice", "options": ["a", "b"], "right": ["c"]}, "right names some of a, b, not 'c'"),
        ({"questions": {"x": {"kind": "choice", "options": ["a"]}}}, "label-read: questions.x: .*2 to 26 texts"),
        ({"questions": {"x": {"instruction": "?"}}}, "questions.x: .*did you mean 'instructions'"),
        ({"questions": {"x": [3]}}, r"questions.x must be a text or a mapping, not \[3\]"),
        ({"questions": {"x": "?"}, "instructions": "!"}, "instructions goes into each of the questions"),
        ({"questions": {"x": "?"}, "weights": {"y": 1}}, "weights for y, which are not questions"),
        ({"questions": {"x": "?"}, "weights": {"x": 0}}, "weights must be above 0"),
        ({"server": "file:///etc/hosts"}, "has to begin with http:// or https://"),
        ({"retries": -1}, "retries must be 0 or more"), ({"timeout": 0}, "timeout above 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build("verifiers", "label-read", settings)


@lru_cache
def pocket() -> TransformersBackend:
    return TransformersBackend.load(str(checkpoint_path()))


def cost(verifier: Verifier, prompt: Prompt, given: Candidate) -> Usage:
    """What it costs to score a candidate when nothing is known yet."""
    backend, meter = pocket(), Meter(Budget())
    backend.prefixes.clear()

    async def ask() -> None:
        async with backend.open(prompt) as session, MeteredModel(session, meter, (0, "")) as model:
            (found,) = await verifier.score(prompt, [given], model)
            assert found.scored

    asyncio.run(ask())
    return meter.usage


def test_many_questions_cost_one_prefill_and_short_tails() -> None:
    scene = next(iter(world.scenes("test", seed=3)))
    prompt, given = Prompt(scene.question.text, [scene.render()]), candidate(*scene.stages.values())
    texts = ["Is it right?", "Is the caption right?", "Is the answer left out?", "Are all objects there?"]
    tails = {"all": {"kind": "choice", "options": ["red", "blue"], "right": ["red"]}, **dict(enumerate(texts))}
    one = cost(LabelRead(), prompt, given)
    many = cost(LabelRead(questions={str(name): tail for name, tail in tails.items()}), prompt, given)  # type: ignore[arg-type]
    assert many.model_calls == 6 and one.model_calls == 1
    assert many.images_encoded == one.images_encoded == 1
    assert one.prefilled_tokens > 60, "the state is most of a question"
    assert many.prefilled_tokens - one.prefilled_tokens < 5 * 30
    assert many.cached_tokens > 5 * 40, "the state was taken over each time"


# ------------------------------------------------------------------ label-read of a server

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]
"""(a request's body, how many came before) -> status and reply."""


@contextmanager
def decision_server(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the bodies that it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = reply(body, len(bodies))
            bodies.append(body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/systemone", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def likes_the_first(body: dict[str, Any], before: int) -> tuple[int, Any]:
    """Yes; the first option of a choice; the highest level, in shares that do not sum to 1."""
    answers, diagnostics = {}, {}
    for name, asked in body["questions"].items():
        criteria = list(asked.get("criteria") or ())
        if asked["type"] == "noul":
            answers[name] = {"type": "noul", "noul": 0.7}
        elif asked["type"] == "choice":
            answers[name] = {"probabilities": {option: 0.9 if option == criteria[0] else 0.1 for option in criteria}}
        else:
            answers[name] = {"probabilities": {str(i): 0.5 * (i == len(criteria) - 1) for i in range(len(criteria))}}
        diagnostics[name] = {"label_mass": 0.5, "argmax_is_label": True}
    return 200, {"answers": answers, "diagnostics": diagnostics}


def test_a_decision_server_is_asked_in_one_request() -> None:
    questions = {
        "right": LabelQuestion("Is this {stage} right?"),
        "fault": LabelQuestion("Any fault?", "choice", ("none", "some"), right=("none",)),
        "level": LabelQuestion("How good?", "score", ("bad", "good")),
    }
    model = Judge()
    with decision_server(likes_the_first) as (address, bodies):
        found = score(LabelRead(questions=questions, server=address, server_model="clef"), WHOLE, model)
    assert {name: part["value"] for name, part in found.details.items()} == pytest.approx(
        {"right": 0.7, "fault": 0.5, "level": 1.0}
    ), "liking what comes first decides no choice"
    assert found.details["right"]["label_mass"] == 0.5
    (body,) = bodies
    assert body["model"] == "clef" and body["images"][0].startswith("data:image/png;base64,")
    assert body["state"].endswith("Proposed conclusion: 1")
    assert body["questions"] == {
        "right-0": {"type": "noul", "instructions": "Is this conclusion right?"},
        "fault-0": {"type": "choice", "instructions": "Any fault?", "criteria": {"none": None, "some": None}},
        "fault-1": {"type": "choice", "instructions": "Any fault?", "criteria": {"some": None, "none": None}},
        "level-0": {"type": "score", "instructions": "How good?", "criteria": ["bad", "good"]},
    }
    assert list(body["questions"]["fault-1"]["criteria"]) == ["some", "none"]
    assert not model.asked and model.charged == Usage(api_calls=1)


def test_a_server_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_FIRST_WAIT", 0.0)
    model = Judge()
    with decision_server(lambda body, n: likes_the_first(body, n) if n == 2 else (503 - 74 * n, {})) as (address, _):
        assert score(LabelRead(server=address), WHOLE, model).value == pytest.approx(0.7)
        assert model.charged.api_calls == 3
    gone = score(LabelRead(server=address, retries=1), WHOLE, model)
    assert not gone.scored and "refused" in gone.reason and model.charged.api_calls == 5


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((400, {"error": "no such model"}), 'HTTP 400: {"error": "no such model"}'),
        ((200, b"<html>"), "the reply is not JSON"), ((200, []), "the reply is list, not a mapping"),
        ((200, {"answers": {}}), "no probabilities of yes, no for 'question-0'"),
        ((200, {"answers": {"question-0": {"noul": "high"}}}), "no probabilities of yes, no"),
        ((200, {"answers": {"question-0": {"probabilities": {"yes": -1, "no": 2}}}}), "are [-1.0, 2.0]"),
    ],
)  # fmt: skip
def test_what_answers_nothing_leaves_a_candidate_unscored(reply: tuple[int, Any], reason: str) -> None:
    model = Judge()
    with decision_server(lambda body, before: reply) as (address, _):
        found = score(LabelRead(server=address), WHOLE, model)
    assert not found.scored and reason in found.reason and model.charged.api_calls == 1


# ------------------------------------------------------------------ generative


def test_a_verdict_is_read_behind_each_critique() -> None:
    model = Judge(
        lambda prompt, text: math.log(0.9 if (text == "yes") == (prompt.history[-1].text == "fine") else 0.1),
        ["fine", "wrong", "fine"],
    )
    found = score(Generative(n=3), WHOLE, model)
    assert found.value == pytest.approx((0.9 + 0.1 + 0.9) / 3) and found.reason == "2 of 3 say yes"
    first, *others = model.asked
    assert "Proposed conclusion: 1\nExamine it" in first.question and len(others) == 3
    for asked in others:
        assert asked.question == "Is it right? Answer yes or no." and asked.images == QUESTION.images
        assert [message.role for message in asked.history] == ["user", "assistant"]
        assert asked.history[0].text == first.question


def test_votes_are_read_off_the_critiques() -> None:
    replies = ["So it is right. Yes.", r"**Judgement**: $\boxed{No}$", "There is no mistake in", "yes", ""]
    model = Judge(replies=replies)
    found = score(Generative(n=5, read="vote"), WHOLE, model)
    assert found.value == pytest.approx(2 / 3) and found.resolution == 0.0
    assert found.details == {"yes": 2, "no": 1, "unreadable": 2} and len(model.asked) == 1
    none = score(Generative(n=2, read="vote"), WHOLE, Judge(replies=["well, yesterday"]))
    assert not none.scored and none.reason == "none of 2 critiques ends with yes or no"
    assert none.details["unreadable"] == 2


# ------------------------------------------------------------------ consistency


def test_the_share_of_answers_from_the_caption_that_are_the_candidates() -> None:
    model = Judge(replies=["2", "two", "3", "I cannot tell."])
    ends = [candidate("s", "cap", "r", text, path=(0, 0, 0, i)) for i, text in enumerate(("2.", "3", "4"))]
    scores = asyncio.run(Consistency().score(QUESTION, ends, model))
    assert [found.value for found in scores] == [0.5, 0.25, 0.0]
    assert scores[0].details["answers"] == {"2": 1, "two": 1, "3": 1, "I cannot tell.": 1}
    assert [prompt.question for prompt in model.asked] == [
        "How many red squares are there?\nCaption: cap\nAnswer directly."
    ], "one caption is asked from once"
    assert model.asked[0].images == QUESTION.images


def test_the_answer_is_what_the_newest_stage_says() -> None:
    model = Judge(replies=["2", "2", "3", "?"])
    reasoned = candidate("s", "cap", "a1 red square in 1. b2 red square in 2. so 3.")
    number = Prompt("How many red squares are there?", answer_kind="number")
    assert score(Consistency(given="SUMMARY"), candidate("s"), model, number).value == 0.5, "the commonest answer's"
    assert score(Consistency(), reasoned, model, number).value == 0.25
    for given, why in ((candidate("s"), "no CAPTION yet"), (candidate("s", "c", "Hm."), "no answer in its REASONING")):
        found = score(Consistency(), given, model, number)
        assert not found.scored and found.reason == why


def test_options_say_which_answers_are_the_same() -> None:
    asked = Prompt("Which? A: a cat B: a dog", options=("a cat", "a dog"), answer_kind="choice")
    found = score(Consistency(n=2), candidate("s", "c", "r", "B"), Judge(replies=["a dog", "A"]), asked)
    assert found.value == 0.5


# ------------------------------------------------------------------ round-trip


def test_reasoning_is_asked_about_from_both_ends() -> None:
    def log_prob(prompt: Prompt, text: str) -> float:
        return math.log({"correct": 0.45, "incorrect": 0.05, "yes": 0.3, "no": 0.7}[text])

    model = Judge(log_prob)
    found = score(RoundTrip(), WHOLE, model)
    assert found.value == pytest.approx(0.6) and found.details == pytest.approx({"forward": 0.9, "backward": 0.3})
    forward, backward = model.asked
    assert not forward.images and backward.images == QUESTION.images
    assert "Conclusion" not in forward.question and "Caption" not in backward.question
    assert all("Proposed reasoning: a1 red square in 1. so 1.\n" in prompt.question for prompt in model.asked)
    assert score(RoundTrip("forward"), WHOLE, model).value == pytest.approx(0.9)
    assert score(RoundTrip("backward"), WHOLE, model).value == pytest.approx(0.3)


def test_a_round_trip_of_what_is_there() -> None:
    reasoned = candidate("s", "c", "r")
    assert set(score(RoundTrip(), reasoned, Judge()).details) == {"forward"}
    for verifier, given in ((RoundTrip(), candidate("s", "c")), (RoundTrip("backward"), reasoned)):
        found = score(verifier, given, Judge())
        assert not found.scored and found.reason == "nothing to ask yet about its REASONING"


# ------------------------------------------------------------------ in searches


@pytest.mark.parametrize(
    ("verifier", "unscored"),
    [
        (LabelRead(), ()), (Generative(n=2, max_tokens=8), ()), (Consistency(n=2, max_tokens=4), ("SUMMARY",)),
        (RoundTrip(), ("SUMMARY", "CAPTION")),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_stage_beam_is_scored_from_where_there_is_something_to_ask(verifier: Any, unscored: Sequence[str]) -> None:
    scene = next(iter(world.scenes("test", seed=5)))
    prompt = Prompt(scene.question.text, [scene.render()], answer_kind="number")
    strategy = build("strategies", "stage-beam", {"candidates": 2, "temperature": 1.0, "verifier": verifier})
    result = sd.decode(prompt, backend=pocket(), strategy=strategy, seed=1)
    assert result.answer and not result.trace.failures
    rounds = [event["values"] for event in result.trace.events if event["kind"] == "score"]
    for stage, values in zip(sd.LLAVA_O1.stages, rounds, strict=True):
        assert {value is None for value in values} == {stage.name in unscored}, stage.name
    assert result.usage_by_part["verifier"].model_calls > 0


@pytest.mark.parametrize("verifier", [LabelRead(), Generative(n=2, max_tokens=8), Consistency(n=2), RoundTrip()])
@pytest.mark.parametrize("limit", [{"model_calls": 2}, {"prefill_tokens": 60}, {"tokens": 90}])
def test_a_spent_budget_passes_through(verifier: Any, limit: dict[str, int]) -> None:
    strategy = build("strategies", "stage-beam", {"candidates": 2, "verifier": verifier})
    backend = ScriptedBackend(lambda prompt, prefix, stage, seed: f"{stage.name.lower()} {seed % 3} {stage.end}")
    result = sd.decode(QUESTION, backend=backend, strategy=strategy, budget=limit)
    assert result.stopped_by in limit and not result.trace.failures
