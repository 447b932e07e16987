"""What is between a hidden stage's tags is never part of an answer, wherever it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

import structdecode as sd
from structdecode.schemas import LLAVA_O1
from structdecode.types import Candidate, Span
from structdecode.visible import shown

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


@pytest.mark.parametrize(
    "names", [("CAPTION", "SUMMARY"), ("SUMMARY", "CAPTION", "SUMMARY"), ("CONCLUSION", "REASONING")]
)
def test_stages_out_of_order_or_twice_are_not_finished(names: tuple[str, ...]) -> None:
    rest = [stage.name for stage in LLAVA_O1.stages if stage.name not in names]
    candidate = Candidate(tuple(Span(name, "x") for name in (*names, *rest)), (0,))
    assert not candidate.in_order(LLAVA_O1) and not candidate.finished(LLAVA_O1)
    whole = Candidate(tuple(Span(stage.name, "x") for stage in LLAVA_O1.stages), (0,))
    assert whole.in_order(LLAVA_O1) and whole.finished(LLAVA_O1)
