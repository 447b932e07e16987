from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from structdecode.core.errors import DataError, UnknownNameError
from structdecode.data import files, load
from structdecode.matching.types import Question
from tests.data.malformed import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(1))
    (tmp_path / "images" / "b.png").write_bytes(picture(2))
    return tmp_path


def one(folder: Path, **cells: Any) -> Question:
    (folder / "one.jsonl").write_text(json.dumps(cells) + "\n")
    loaded = load(folder / "one.jsonl", images=folder / "images")
    assert not loaded.rejected
    return loaded.questions[0]


def test_jsonl(folder: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture(3)).decode()
    question = one(
        folder, id=7, question="Which?", answers=[{"answer": "red"}, {"answer": "crimson"}, {"answer": "red"}],
        image=["a.png", url], category="colour", kind="text", tolerance=0.05,
    )  # fmt: skip
    assert question == Question(
        id="7", text="Which?", answers=("red", "crimson"), images=(folder / "images/a.png", picture(3)),
        kind="text", tolerance=0.05, category="colour", source=f"{folder / 'one.jsonl'}:1",
    )  # fmt: skip


def test_numbers_keep_their_digits_and_truth_values_become_yes_and_no(folder: Path) -> None:
    (folder / "n.jsonl").write_text(
        '{"question": "How long?", "answer": 2.50}\n\n{"question": "Open?", "answer": false}\n'
    )
    long, open_ = load(folder / "n.jsonl").questions
    assert (long.id, long.answers, long.images) == ("row-1", ("2.50",), ())
    assert (open_.id, open_.answers, open_.kind) == ("row-3", ("no",), "yes-no")


@pytest.mark.parametrize("options", [["red", "blue"], {"A": "red", "b": "blue"}, '["red", "blue"]', "['red', 'blue']"])
@pytest.mark.parametrize("answer", ["B", "(b)", "b.", "Blue", 1])
def test_options_are_listed_and_the_right_one_is_a_letter(folder: Path, options: object, answer: object) -> None:
    question = one(folder, question="Which?", answer=answer, options=options)
    assert dict(question.options) == {"A": "red", "B": "blue"}
    assert (question.answers, question.kind) == (("B",), "choice")
    assert question.text == "Which?\nOptions:\nA. red\nB. blue"


def test_options_that_the_question_lists_itself_are_not_listed_again(folder: Path) -> None:
    question = one(folder, question="Which? (A) red (B) blue", answer="A", options=["red", "blue"])
    assert question.text == "Which? (A) red (B) blue"
    assert "Options:" in one(folder, question="Is it red or blue?", answer="A", options=["red", "blue"]).text


def test_an_answer_that_is_a_letter_and_another_options_text_is_the_letter(folder: Path) -> None:
    assert one(folder, question="Which point?", answer="A", options=["B", "A"]).answers == ("A",)
    assert one(folder, question="How many?", answer=1, options=["0", "1", "2"]).answers == ("B",)


def test_csv_as_spreadsheets_write_it(folder: Path) -> None:
    text = (
        '\ufeffid,question,answer,image,A,B,C,category\r\n'
        '1,"Which, ""then""\nor now?",B,a.png,red,"blue, dark",,colours\r\n'
        "\r\n"
        '2,"How many?","[""3"", ""three""]",b.png,,,,count\r\n'
        "3,Last?,yes,,,,,\r\n"
    )  # fmt: skip
    (folder / "t.csv").write_bytes(text.encode())
    loaded = load(folder / "t.csv", images=folder / "images")
    assert loaded.rejected == ()
    first, second, third = loaded.questions
    assert first.text == 'Which, "then"\nor now?\nOptions:\nA. red\nB. blue, dark'
    assert (first.answers, first.category) == (("B",), "colours")
    assert (second.answers, second.images) == (("3", "three"), (folder / "images/b.png",))
    assert [q.source.rpartition(":")[2] for q in loaded.questions] == ["2", "5", "6"]
    assert third.images == ()


def test_parquet_with_pictures_inside(folder: Path) -> None:
    table = pa.table({
        "question": ["Which?", "How many?", None], "answers": [["red"], ["2", "two"], ["x"]],
        "image": [{"bytes": picture(4), "path": "x.png"}, {"bytes": None, "path": "a.png"}, None],
        "options": [["red", "blue"], None, None], "tolerance": [None, 0.1, None],
    })  # fmt: skip
    pq.write_table(table, folder / "p.parquet")
    loaded = load(folder / "p.parquet", images=folder / "images")
    assert [(q.answers, q.images, q.tolerance) for q in loaded.questions] == [
        (("A",), (picture(4),), None), (("2", "two"), (folder / "images/a.png",), 0.1),
    ]  # fmt: skip
    assert [(r.line, r.problem) for r in loaded.rejected] == [(3, "missing-field")]


def test_a_parquet_cell_that_is_no_utf8_costs_its_row(folder: Path) -> None:
    raw = pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": raw, "answer": ["1", "2", "3"]}), folder / "p.parquet")
    loaded = load(folder / "p.parquet")
    assert [q.text for q in loaded.questions] == ["one", "three"]
    assert [(r.line, r.problem) for r in loaded.rejected] == [(2, "not-utf8")]


def test_columns_of_other_names(folder: Path) -> None:
    (folder / "t.csv").write_text("query,label,picture\nWhich?,red,a.png\n")
    with pytest.raises(DataError, match=r"no column 'question' \(there are: query, label, picture\)"):
        load(folder / "t.csv")
    columns = {"question": "query", "answer": "label", "image": "picture"}
    (question,) = load(folder / "t.csv", columns=columns, images=folder / "images").questions
    assert (question.text, question.answers, question.images) == ("Which?", ("red",), (folder / "images/a.png",))
    with pytest.raises(UnknownNameError, match="did you mean 'question'"):
        load(folder / "t.csv", columns={"questions": "query"})
    with pytest.raises(DataError, match="no column 'pic'"):
        load(folder / "t.csv", columns={**columns, "image": "pic"})


def test_a_split_is_chosen_by_its_column(folder: Path) -> None:
    (folder / "t.csv").write_text("question,answer,split\nOne?,1,dev\nTwo?,2,test\nThree?,3,\n")
    assert [q.text for q in load(folder / "t.csv", split="test").questions] == ["Two?"]
    assert len(load(folder / "t.csv").questions) == 3


def test_one_unclosed_quote_does_not_take_the_rest_of_the_file_along(folder: Path) -> None:
    rows = [f"{n},Question {n}?,{n}" for n in range(3000)]
    rows[10] = '10,"Question 10?,10'
    (folder / "t.csv").write_text("id,question,answer\n" + "\n".join(rows) + "\n")
    loaded = load(folder / "t.csv")
    assert [(r.line, r.problem) for r in loaded.rejected] == [(12, "bad-quotes")]
    assert len(loaded.questions) == 2999
    rows[11] = "11,Question, 11?,11"  # may be the rest of the open cell: it is named with it
    (folder / "t.csv").write_text("id,question,answer\n" + "\n".join(rows) + "\n")
    assert [str(r).partition(": ")[2] for r in load(folder / "t.csv").rejected] == [
        "a quote is never closed (lines 12 to 13): quote the cell, double quotes in it"
    ]


@pytest.mark.parametrize(("bound", "value"), [("MAX_RECORD_LINES", 4), ("MAX_RUN_ON", 12)])
def test_a_field_that_runs_on_too_long_is_taken_for_unclosed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Else each unclosed quote would read the rest of a large file into memory."""
    (folder / "t.csv").write_text('question,answer\n"one\ntwo\nthree\nfour\nfive",5\n"six\n?",6\n')
    assert [q.source.rpartition(":")[2] for q in load(folder / "t.csv").questions] == ["2", "7"]
    monkeypatch.setattr(files, bound, value)
    loaded = load(folder / "t.csv")
    assert [q.text for q in loaded.questions] == ["six\n?"]
    assert {r.problem for r in loaded.rejected} == {"bad-quotes"} and loaded.rejected[0].line == 2


@pytest.mark.parametrize(
    ("field", "values", "read", "problem"),
    [
        ("kind", ["animal", "number", "plant", None], [None, "number", None, None], "unknown-kind"),
        ("tolerance", ["tight", 0.05, -0.1, None], [None, 0.05, None, None], "bad-tolerance"),
        ("category", [["a"], "b", True, None], ["", "b", "", ""], "wrong-type"),
    ],
)
def test_a_column_that_happens_to_be_called_like_a_field_costs_no_row(
    field: str, values: list[object], read: list[object], problem: str, folder: Path
) -> None:
    rows = [{"question": "What?", "answer": "a", field: value} for value in values]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load(folder / "own.jsonl")
    assert [getattr(q, field) for q in loaded.questions] == read and not loaded.rejected
    (note,) = loaded.notes
    assert f"column {field!r} was not used in 2 rows (line 1: {field} " in note and "rename the column" in note
    named = load(folder / "own.jsonl", columns={field: field})  # one that is named has to hold what it is named for
    assert [row.problem for row in named.rejected] == [problem] * 2 and not named.notes


@pytest.mark.parametrize("text", ["<image>\nWhich?", "Which?<image>", "Which? <image>", "Which?"])
def test_marks_of_pictures_are_no_part_of_the_question(text: str, folder: Path) -> None:
    assert one(folder, id=1, question=text, answer="a", image="a.png").text == "Which?"


def test_marks_of_pictures_are_no_part_of_an_option(folder: Path) -> None:
    question = one(
        folder, question="Which?", answer="the red <image>", options=["the red <image>", "none"], image="a.png"
    )
    assert question.text == "Which?\nOptions:\nA. the red\nB. none" and question.answers == ("A",)
    listed = one(
        folder, question="Which? (A) up <image> (B) no", answer="A", options=["up <image>", "no"], image="a.png"
    )
    assert listed.text == "Which? (A) up (B) no"


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"question": "<image>\nWhich?"}, "mark-without-image"),
        ({"question": "<image> <image>\nWhich?", "image": "a.png"}, "mark-without-image"),
        ({"question": "Which?", "options": ["<image> red", "blue"], "answer": "A"}, "mark-without-image"),
        ({"question": "Which?", "A": "<image> red", "B": "blue", "answer": "A"}, "mark-without-image"),
        ({"question": "<image>\nWhich?", "image": ["a.png", "b.png"]}, "image-without-mark"),
        ({"question": "Which?", "image": "a.png", "images": ["b.png"]}, "two-image-fields"),
    ],
)
def test_marks_are_as_many_as_pictures(cells: dict[str, Any], problem: str, folder: Path) -> None:
    (folder / "q.jsonl").write_text(json.dumps({"answer": "a", **cells}) + "\n")
    (bad,) = load(f"vqa:{folder / 'q.jsonl'}", images=folder / "images").rejected
    assert (bad.line, bad.problem) == (1, problem)
    pair = one(folder, question="<image> <image>\nWhich?", answer="a", images=["a.png", "b.png"])
    assert pair.text == "Which?" and len(pair.images) == 2
    assert len(one(folder, question="Which?", answer="a", images=["a.png", "b.png"]).images) == 2


def test_many_columns_take_no_time(folder: Path) -> None:
    names = ",".join(f"c{i}" for i in range(100_000))
    (folder / "wide.csv").write_text(f"question,answer,{names}\nWhich?,a{',1' * 100_000}\n")
    assert [q.text for q in load(folder / "wide.csv").questions] == ["Which?"]
    (folder / "wide.csv").write_text(f"question,answer,{names},c7\nWhich?,a{',1' * 100_001}\n")
    with pytest.raises(DataError, match="'c7' is there twice"):
        load(folder / "wide.csv")
