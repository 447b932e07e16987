"""Law 6: tags in the question or inside a stage's text never confuse the stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError
from structdecode.core.tags import forced_prefix, parse, to_put_in
from structdecode.core.types import Candidate, Prompt, Schema, Span, Stage

TAGS = [tag for stage in sd.LLAVA_O1.stages for tag in (stage.begin, stage.end)]
BODY = st.text("ab .\n", min_size=1, max_size=12).filter(str.strip)


def answer(bodies: list[str], space: str = "\n\n") -> str:
    stages = zip(sd.LLAVA_O1.stages, bodies, strict=True)
    return space.join(f"{stage.begin}{body}{stage.end}" for stage, body in stages)


@given(st.lists(BODY, min_size=4, max_size=4), st.sampled_from(["", " ", "\n", " \n\n "]))
def test_well_formed_answers_come_apart_whole(bodies: list[str], space: str) -> None:
    spans = parse(sd.LLAVA_O1, answer(bodies, space))
    assert [span.text for span in spans] == [body.strip() for body in bodies]
    assert all(span.finish_reason == "stop" for span in spans)


@given(
    st.text("<>/ab " + "SUMMARYCAPTIONREASONINGCONCLUSION", max_size=80)
    | st.lists(st.sampled_from([*TAGS, "x"])).map("".join)
)
def test_nothing_that_a_model_writes_raises(text: str) -> None:
    spans = parse(sd.LLAVA_O1, text)
    assert {span.stage for span in spans} == {stage.name for stage in sd.LLAVA_O1.stages}


def test_missing_repeated_and_unclosed_stages_are_invalid() -> None:
    good = ["a", "b", "c", "d"]
    broken = {
        "missing": answer(good).replace("<CAPTION>b</CAPTION>", ""),
        "repeated": answer(good).replace("<CAPTION>b", "<CAPTION>b<CAPTION>b"),
        "twice": answer(good) + "<CAPTION>again</CAPTION>",
        "unclosed": answer(good).removesuffix("</CONCLUSION>"),
        "outside": answer(good) + " and more",
    }
    for name, text in broken.items():
        assert any(span.finish_reason == "invalid" for span in parse(sd.LLAVA_O1, text)), name


THREE = Schema("three", (Stage.tagged("A"), Stage("B", "<B>", "</B>", optional=True), Stage.tagged("C")))
INVALID = "invalid"


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("<A> a </A>\n<B>b</B> <C>c</C>", [("A", "a", "stop", "<A> a </A>"), ("B", "b", "stop", "<B>b</B>"), ("C", "c", "stop", "<C>c</C>")]),
        ("<A>a</A><C>c</C>", [("A", "a", "stop", "<A>a</A>"), ("C", "c", "stop", "<C>c</C>")]),
        ("<B>b</B><C>c</C>", [("A", "", INVALID, ""), ("B", "b", "stop", "<B>b</B>"), ("C", "c", "stop", "<C>c</C>")]),
        ("<A>a", [("A", "a", INVALID, "<A>a"), ("C", "", INVALID, "")]),
        ("<A>a</A><C>c</C> more", [("A", "a", "stop", "<A>a</A>"), ("C", "c", INVALID, "<C>c</C> more")]),
        ("so <A>a</A><C>c</C>", [("A", "a", INVALID, "<A>a</A>"), ("C", "c", "stop", "<C>c</C>")]),
        ("<A>a<A>b</A><C>c</C>", [("A", "a<A>b", INVALID, "<A>a<A>b</A>"), ("C", "c", "stop", "<C>c</C>")]),
        ("<A>a</A><A>b</A><C>c</C>", [("A", "a", INVALID, "<A>a</A>"), ("C", "c", INVALID, "<C>c</C>")]),
        ("", [("A", "", INVALID, ""), ("C", "", INVALID, "")]),
    ],
)  # fmt: skip
def test_an_answer_is_read_stage_by_stage(text: str, spans: list[tuple[str, str, str, str]]) -> None:
    assert [(s.stage, s.text, s.finish_reason, s.raw) for s in parse(THREE, text)] == spans


def test_a_stage_without_tags_takes_the_rest() -> None:
    schema = Schema("open", (Stage.tagged("A"), Stage("REST", "", "")))
    assert [(s.stage, s.text, s.raw) for s in parse(schema, "<A>a</A> and so on ")] == [
        ("A", "a", "<A>a</A>"), ("REST", "and so on", " and so on "),
    ]  # fmt: skip


def test_a_text_is_put_in_with_the_end_tag_behind_it_where_the_stage_is_to_be_closed() -> None:
    closed, bare = Stage.tagged("A"), Stage("OPEN")
    assert to_put_in("x", closed, leave_open=False) == ("x", "</A>") and to_put_in("x", closed, leave_open=True) == (
        "x",
        "",
    )
    assert to_put_in("x</A>", closed, leave_open=True) == to_put_in("x</A>", closed, leave_open=False) == ("x", "</A>")
    assert to_put_in("x", bare, leave_open=False) == to_put_in("x", bare, leave_open=True) == ("x", "")
    with pytest.raises(ConfigError) as caught:
        to_put_in("x</A>" + "y" * 99, closed, leave_open=False)
    assert str(caught.value) == f"the text put in for 'A' continues behind '</A>': '{'y' * 60}... (99 characters)'"


@given(st.lists(st.sampled_from([*TAGS, "how many", "{question}", "{hint}", "<|x|>"]), min_size=1, max_size=6))
def test_tags_in_the_question_are_just_text(parts: list[str]) -> None:
    prompt = Prompt("What is " + " ".join(parts))
    result = sd.decode(prompt, backend=ScriptedBackend(lambda p, c, stage, s: f"{stage.name}!{stage.end}"))
    assert result.stages == {name: f"{name}!" for name in ("SUMMARY", "REASONING", "CONCLUSION")}
    assert result.best is not None and result.best.valid


@given(st.sampled_from([tag for tag in TAGS if "REASONING" not in tag]))
def test_other_stages_tags_inside_a_stage_are_just_text(tag: str) -> None:
    def model(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return f"before {tag} after {stage.end}" if stage.name == "REASONING" else f"ok {stage.end}"

    result = sd.decode(Prompt("?"), backend=ScriptedBackend(model), strategy="stage-beam")
    assert result.stages["REASONING"] == f"before {tag} after"
    assert result.answer == "ok"


def write(text: str, force: bool, end: str = "</A>") -> Span:
    schema = Schema("s", (Stage("A", "<A>", end),), force_begin=force)
    result = sd.decode(Prompt("?"), backend=ScriptedBackend(lambda *_: text), schema=schema, strategy="staged")
    assert result.best is not None
    return result.best.spans[0]


def test_begin_tag_forced_or_left_to_the_model() -> None:
    assert write("x </A>", force=True).text == write("<A> x </A>", force=False).text == "x"
    for text, force in (("<A> x </A>", True), ("x </A>", False), ("<A> <A> x </A>", False), ("y <A> x </A>", False)):
        span = write(text, force)
        assert span.finish_reason == "invalid" and "x" in span.text


def test_a_stage_that_ends_without_its_tag_is_closed_and_marked() -> None:
    ended = write("never closed", force=True)
    assert (ended.finish_reason, ended.text) == ("invalid", "never closed")
    assert ended.raw.endswith("</A>")
    long = write("x" * 5000, force=True)
    assert (long.finish_reason, len(long.token_ids)) == ("length", 512)
    assert long.raw.endswith("</A>") and long.all_ids[-4:] == tuple(map(ord, "</A>"))


def test_what_a_merged_token_wrote_already_is_not_written_again() -> None:
    stage = Stage.tagged("B")
    overshoot = {"": "\n\n<B>", "\n": "\n<B>", "\n\n": "<B>", "\n\n<": "B>", "<": "B>", " ": "<B>"}
    for written, due in overshoot.items():
        assert forced_prefix(stage, Span("A", "x", overshoot=written), "\n\n") == due
    assert forced_prefix(stage, None, "\n\n") == "<B>"
