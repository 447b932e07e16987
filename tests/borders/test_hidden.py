"""What is between a hidden stage's tags is never part of an answer, wherever it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

import structdecode as sd
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.tags import parse
from structdecode.core.types import Candidate, Span
from structdecode.core.visible import shown

SECRET = "SECRET"
CONCLUSION = LLAVA_O1.stages[-1]
TEXTS = {
    f"<REASONING> {SECRET} </REASONING> 5": "5",
    f"5 <REASONING> {SECRET} </REASONING>": "5",
    f"5 <REASONING> {SECRET}": "5",
    f"<REASONING> {SECRET}": "",
    f"{SECRET} </REASONING> 5": "5",
    f"<REASONING> {SECRET} <CAPTION> {SECRET} </CAPTION> {SECRET} </REASONING> 5": "5",
    f"<SUMMARY>{SECRET}</SUMMARY><CAPTION>{SECRET}</CAPTION><CONCLUSION>5</CONCLUSION>": "5",
    f"{SECRET} <CONCLUSION> 5": "5",
    f"<REASONING> {SECRET} </REASONING> {SECRET} <CONCLUSION> 5 </CONCLUSION>": "5",
    f"5 <REASONING>{SECRET}</REASONING> and <REASONING>{SECRET}</REASONING> 6": "5 and 6",
    f"<REASONING><REASONING> {SECRET} </REASONING> {SECRET} </REASONING> 5": "5",
    f"<REASONING><REASONING> {SECRET} </REASONING> {SECRET}": "",
    f"5 <SUMMARY>{SECRET}<REASONING>{SECRET}</SUMMARY>{SECRET}": "5",
    f"5 <SUMMARY>{SECRET}<REASONING>{SECRET}</SUMMARY>{SECRET}</REASONING>": "5",
    "5": "5", "a < b and <b>c</b>": "a < b and <b>c</b>", "": "",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_only_what_is_not_hidden_is_shown(text: str) -> None:
    assert shown(LLAVA_O1, CONCLUSION, text) == TEXTS[text]
    candidate = Candidate((Span("CONCLUSION", text, finish_reason="invalid"),), (0,))
    assert candidate.answer(LLAVA_O1) == TEXTS[text] and SECRET not in candidate.answer(LLAVA_O1)


WRITTEN = {
    "a second stage": ["<SUMMARY> a </SUMMARY>", "<CAPTION> b </CAPTION>", "<REASONING> c </REASONING>",
                       f"<REASONING> {SECRET} </REASONING> <CONCLUSION> 5 </CONCLUSION>"],
    "text before": ["<SUMMARY> a </SUMMARY>", "<CAPTION> b </CAPTION>", "<REASONING> c </REASONING>", f"{SECRET} <CONCLUSION> 5 </CONCLUSION>"],
    "inside": ["<SUMMARY> a </SUMMARY>", "<CAPTION> b </CAPTION>", "<REASONING> c </REASONING>",
               f"<CONCLUSION> <REASONING> {SECRET} </REASONING> 5 </CONCLUSION>"],
    "unclosed": ["<SUMMARY> a </SUMMARY>", "<CAPTION> b </CAPTION>", "<REASONING> c </REASONING>",
                 f"<CONCLUSION> 5 <REASONING> {SECRET} </CONCLUSION>"],
}  # fmt: skip


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", WRITTEN)
def test_a_search_shows_nothing_hidden(case: str, force: bool) -> None:
    texts = WRITTEN[case]

    def model(prompt: sd.Prompt, prefix: Candidate, stage: sd.Stage, seed: int) -> str:
        text = texts[len(prefix.spans)]
        return text.replace(stage.begin, "", 1) if force and case != "text before" else text

    result = sd.decode(
        sd.Prompt("?", [Image.new("RGB", (8, 8))]),
        backend=sd.ScriptedBackend(model),
        schema=replace(LLAVA_O1, force_begin=force),
    )
    assert SECRET not in result.answer and "<" not in result.answer and "5" in result.answer
    assert result.best is not None and not result.best.valid
    assert len(result.warnings) == 1 and "CONCLUSION" in result.warnings[0]
    assert parse(LLAVA_O1, "".join(texts))[-1].finish_reason == "invalid"


@pytest.mark.parametrize("strategy", ["staged", "sentence-beam"])
def test_an_answer_with_tags_that_hide_nothing_is_well_formed(strategy: str) -> None:
    """What stands in a hidden stage is just text, and so are tags of none of the stages."""
    backend = sd.ScriptedBackend(
        lambda p, c, stage, s: f"<b>a</b>{'' if stage.visible else '<CONCLUSION>'} {stage.end}"
    )
    result = sd.decode(sd.Prompt("?"), backend=backend, strategy=strategy, schema="llava-o1")
    assert result.best is not None and result.best.valid and not result.warnings and result.answer == "<b>a</b>"


def test_a_hidden_stage_that_is_spread_over_sentences_is_found() -> None:
    text = f"5. <REASONING> {SECRET}. {SECRET} </REASONING>. 6. </CONCLUSION>"

    def model(prompt: sd.Prompt, prefix: Candidate, stage: sd.Stage, seed: int) -> str:
        written = prefix.stages.get(stage.name, "") if prefix.open_stage else ""
        return text[len(written) :] if stage.name == "CONCLUSION" else f"x {stage.end}"

    backend = sd.ScriptedBackend(model)
    result = sd.decode(sd.Prompt("?"), backend=backend, strategy="sentence-beam", schema="llava-o1")
    assert result.best is not None and not result.best.valid and SECRET not in result.answer


def test_tags_that_the_model_never_opens_are_said() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: "5")
    result = sd.decode(sd.Prompt("?"), backend=backend, schema=replace(LLAVA_O1, force_begin=False))
    assert result.best is not None and not result.best.valid
    assert len(result.warnings) == 1 and "never opened <SUMMARY>, <REASONING>, <CONCLUSION>" in result.warnings[0]
    assert [event["kind"] for event in result.trace.events][-2:] == ["warning", "result"]


@pytest.mark.parametrize(
    "names", [("CAPTION", "SUMMARY"), ("SUMMARY", "CAPTION", "SUMMARY"), ("CONCLUSION", "REASONING")]
)
def test_stages_out_of_order_or_twice_are_not_finished(names: tuple[str, ...]) -> None:
    rest = [stage.name for stage in LLAVA_O1.stages if stage.name not in names]
    candidate = Candidate(tuple(Span(name, "x") for name in (*names, *rest)), (0,))
    assert not candidate.in_order(LLAVA_O1) and not candidate.finished(LLAVA_O1)
    whole = Candidate(tuple(Span(stage.name, "x") for stage in LLAVA_O1.stages), (0,))
    assert whole.in_order(LLAVA_O1) and whole.finished(LLAVA_O1)
