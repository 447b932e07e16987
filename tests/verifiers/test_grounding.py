from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import structdecode as sd
from structdecode.core.errors import ConfigError
from structdecode.core.lookup import load_backend
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.pocket import world
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.grounding import Grounding
from tests.verifiers.asking import ask, values

SCENE = next(world.scenes("test"))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
STAGES = tuple(SCENE.stages)


@pytest.fixture(scope="module")
def backend() -> Any:
    return load_backend(None, device="cpu")


def made(*texts: str) -> Candidate:
    """As decoding writes it: a separator before each begin tag but the first."""
    spans = []
    for stage, text in zip(LLAVA_O1.stages, texts, strict=False):
        before = LLAVA_O1.separator if spans else ""
        spans.append(Span(stage.name, text, raw=f"{before}{stage.begin} {text} {stage.end}"))
    return Candidate(tuple(spans), tuple(0 for _ in spans))


def recorded(backend: Any, prompt: Prompt, text: str) -> list[float]:
    """Log-probabilities by hand, of a session of its own."""

    async def run() -> list[float]:
        async with backend.open(prompt) as session:
            return (await session.log_probs([text])).value[0]  # type: ignore[no-any-return]

    return asyncio.run(run())


@pytest.mark.parametrize("control", ["blank", "shuffled", "cropped", "none"])
def test_it_is_the_difference_of_two_log_probabilities_a_token(control: Any, backend: Any) -> None:
    texts = list(SCENE.stages.values())
    (score,), _ = ask(Grounding(control), PROMPT, [made(*texts[:2])], backend)
    other = Grounding(control).changed(PROMPT)
    head, text = f"<SUMMARY> {texts[0]} </SUMMARY>\n\n<CAPTION>", f" {texts[1]} </CAPTION>"
    count = len(recorded(backend, PROMPT, text))
    means = [sum(recorded(backend, asked, head + text)[-count:]) / count for asked in (PROMPT, other)]
    assert score.details.pop("control") == control  # type: ignore[attr-defined]
    assert score.details == pytest.approx({"with": means[0], "without": means[1], "tokens": count}, rel=1e-3)
    assert score.value == pytest.approx(means[0] - means[1], rel=1e-3)
    assert score.value > 0.3 or control != "blank", "a true caption is read off the picture"


def test_what_the_model_saw_is_grounded_and_what_it_may_say_of_any_picture_is_not(backend: Any) -> None:
    texts = list(SCENE.stages.values())
    wrong = [texts[0], texts[1].replace("square", "triangle").replace("red", "blue"), *texts[2:]]
    by_stage = [Grounding(stages=(name,)) for name in STAGES]
    summary, caption, *_ = (ask(v, PROMPT, [made(*texts), made(*wrong)], backend)[0] for v in by_stage)
    assert abs(summary[0].value) < 0.05 < caption[0].value  # type: ignore[arg-type, operator]
    assert texts[1] != wrong[1] and caption[0].value > caption[1].value  # type: ignore[operator]


def test_stages_are_weighed_by_their_tokens(backend: Any) -> None:
    whole = made(*SCENE.stages.values())
    alone = [ask(Grounding(stages=(name,)), PROMPT, [whole], backend)[0][0] for name in STAGES]
    (both,), _ = ask(Grounding(stages=("CAPTION", "CONCLUSION")), PROMPT, [whole], backend)
    parts = [alone[1], alone[3]]
    expected = sum(s.value * s.details["tokens"] for s in parts) / sum(s.details["tokens"] for s in parts)  # type: ignore[operator]
    assert both.value == pytest.approx(expected, rel=1e-3)
    newest, _ = ask(Grounding(), PROMPT, [whole], backend)
    assert values(newest) == pytest.approx([alone[3].value], rel=1e-3)


def test_an_open_stage_and_a_text_that_is_in_its_own_tag(backend: Any) -> None:
    summary, *_ = made("Count.").spans
    opened = Span("CAPTION", "a1 red square.", raw="\n\n<CAPTION> a1 red square.", closed=False)
    goes_on = Span("CAPTION", "b2 blue circle.", raw=" b2 blue circle.", closed=False)
    two, _ = ask(Grounding(), PROMPT, [Candidate((summary, opened, goes_on), (0, 0, 0))], backend)
    whole = Span("CAPTION", "a1 red square. b2 blue circle.", raw=f"{opened.raw}{goes_on.raw}", closed=False)
    one, _ = ask(Grounding(), PROMPT, [Candidate((summary, whole), (0, 0))], backend)
    assert two == one and one[0].details["tokens"] == len(recorded(backend, PROMPT, " a1 red square. b2 blue circle."))
    (letter,), _ = ask(Grounding(), PROMPT, [made("s", "c", "r", "C")], backend)
    (word,), _ = ask(Grounding(), PROMPT, [made("s", "c", "r", "2")], backend)
    tokens = [len(recorded(backend, PROMPT, f" {text} </CONCLUSION>")) for text in ("C", "2")]
    assert [letter.details["tokens"], word.details["tokens"]] == tokens


def test_all_candidates_are_one_call_a_picture_and_a_picture_is_encoded_once(backend: Any) -> None:
    texts = list(SCENE.stages.values())
    given = [made(*texts), made(*texts[:2]), made(*texts[:3]), made(*texts)]
    scores, cost = ask(Grounding(), Prompt("Unseen?", [next(world.scenes("test", 3)).render()]), given, backend)
    assert cost.model_calls == 2 and cost.images_encoded == 2 and scores[0] == scores[3]
    model = EchoModel()
    asyncio.run(Grounding(control="none").score(PROMPT, given, model))
    assert [bool(prompt.images) for prompt in model.asked] == [True, False]


def test_controls() -> None:
    numbered = Image.fromarray(np.arange(20 * 18 * 3, dtype=np.uint32).astype(np.uint8).reshape(18, 20, 3))
    prompt = Prompt("?", [numbered, Image.new("RGB", (1, 1), "red")], options=("a", "b"))
    blank, shuffled, cropped, none = (
        Grounding(control, patches=4).changed(prompt)
        for control in ("blank", "shuffled", "cropped", "none")  # type: ignore[arg-type]
    )
    assert none == replace(prompt, images=())
    assert blank.images[0].image.getcolors() == [(360, tuple(np.asarray(numbered).mean((0, 1)).round().astype(int)))]
    assert [p.image.size for p in cropped.images] == [(10, 18), (1, 1)]
    assert [p.image.size for p in shuffled.images] == [(20, 18), (1, 1)] and shuffled.options == ("a", "b")
    before, after = np.asarray(numbered), np.asarray(shuffled.images[0].image)
    assert (before != after).any() and (before[16:] == after[16:]).all(), "two rows are left over"
    tiles = [{picture[y : y + 4, x : x + 5].tobytes() for y in range(0, 16, 4) for x in range(0, 20, 5)} for picture in (before, after)]  # fmt: skip
    assert tiles[0] == tiles[1] and len(tiles[0]) == 16
    again = Grounding("shuffled", patches=4).changed(prompt)
    assert again == shuffled and Grounding("shuffled", patches=4, seed=1).changed(prompt) != shuffled


def test_laws() -> None:
    check_verifier(Grounding(), prompt=PROMPT)
    check_verifier(Grounding())
    scores = asyncio.run(Grounding().score(Prompt("?"), [candidate("s")], EchoModel()))
    assert scores == [sd.Score.unscored("there is no picture")]
    scores = asyncio.run(Grounding(stages=("CAPTION",)).score(PROMPT, [candidate("s"), Candidate()], EchoModel()))
    assert [score.reason for score in scores] == ["no CAPTION yet"] * 2
    for wrong in ({"control": "grey"}, {"patches": 1}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Grounding(**wrong)  # type: ignore[arg-type]
