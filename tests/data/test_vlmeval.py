"""Small files of the true forms: the columns and quirks of each benchmark as VLMEvalKit distributes it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from structdecode.core.errors import ConfigError, DataError
from structdecode.data import Loaded, load
from structdecode.matching import match
from tests.data.malformed import picture


def encoded(number: int) -> str:
    return base64.b64encode(picture(number)).decode()


def written(path: Path, columns: Sequence[str], *rows: Sequence[object]) -> Loaded:
    """As VLMEvalKit writes them: `DataFrame.to_csv(sep="\\t", index=False)`."""
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, sep="\t", index=False)
    return load(path)


MMBENCH = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category",
           "comment", "split"]  # fmt: skip


def test_mmbench_hints_missing_options_and_pictures_of_other_rows(tmp_path: Path) -> None:
    tail = ["logic_reasoning", "nan", "dev"]
    loaded = written(
        tmp_path / "MMBench_DEV_EN.tsv", MMBENCH,
        [241, "Identify it.", "It is a bird.\nA small one.", "finch", "bear", None, "nan", "A", "identity", encoded(1), "s", *tail],
        [1000241, "Identify it.", None, "bear", "finch", None, None, "B", "identity", "241", "s", *tail],
        [252, 'Which "one"?', "nan", "None", "all", "both", None, "A", "logic", 253, "s", *tail],
        [253, "Which?", None, "x", "y", "z", "w", "D", "logic", encoded(2), "s", *tail],
    )  # fmt: skip
    assert loaded.rejected == ()
    assert [q.id for q in loaded.questions] == ["241", "1000241", "252", "253"]
    first, rotated, forward, last = loaded.questions
    assert first.text == (
        "Hint: It is a bird.\nA small one.\nQuestion: Identify it.\nOptions:\nA. finch\nB. bear\n"
        "Please select the correct answer from the options above. \n"
    )
    assert (first.answers, first.kind, first.category) == (("A",), "choice", "identity")
    assert first.images == rotated.images == (picture(1),)
    assert forward.images == last.images == (picture(2),)
    assert dict(forward.options) == {"A": "None", "B": "all", "C": "both"}
    assert forward.text.startswith('Question: Which "one"?\nOptions:\nA. None\n')
    assert load(tmp_path / "MMBench_DEV_EN.tsv", limit=3).questions == loaded.questions[:3]
    assert load(tmp_path / "MMBench_DEV_EN.tsv", split="test").questions == ()


def test_marks_of_pictures_are_no_part_of_what_is_asked(tmp_path: Path) -> None:
    both = f"['{encoded(1)}', '{encoded(2)}']"
    columns = ["index", "image", "question", "hint", "A", "B", "answer"]
    row = [0, both, "<image>\nWhich?", None, "like <image>", "none", "B"]
    (question,) = written(tmp_path / "MUIR.tsv", columns, row).questions
    assert question.text.startswith("Question: Which?\nOptions:\nA. like\nB. none\n") and len(question.images) == 2
    columns = ["index", "image", "question", "answer", "question_type", "answer_type", "choices"]
    asked = "Question: <image> Slope?\n(A) up <image>\n(B) down"
    row = [1, both, asked, "down", "multi_choice", "text", "['up <image>', 'down']"]
    (question,) = written(tmp_path / "MathVista.tsv", columns, row).questions
    assert "<image>" not in question.text and dict(question.options) == {"A": "up", "B": "down"}
    (question,) = written(tmp_path / "Open.tsv", columns[:4], [2, encoded(1), "What is it? <image>", "x"]).questions
    assert question.text == "What is it?"
    one_of_two = written(tmp_path / "Few.tsv", columns[:4], [3, both, "What is it? <image>", "x"])
    assert [row.problem for row in one_of_two.rejected] == ["image-without-mark"]


def test_mmbench_test_split_comes_without_answers(tmp_path: Path) -> None:
    row = [1, "Which?", None, "x", "y", None, None, None, "c", encoded(1), "s", "l", "", "test"]
    assert [r.problem for r in written(tmp_path / "MMBench_TEST_EN.tsv", MMBENCH, row).rejected] == ["no-answer"]


def test_mmstar_and_ai2d(tmp_path: Path) -> None:
    columns = ["index", "question", "A", "B", "C", "D", "answer", "category", "l2_category", "bench", "image"]
    row = [0, "Which sport?", "Golf", "Chess", "Polo", "Judo", "C", "coarse", "style", "MMBench", encoded(1)]
    (question,) = written(tmp_path / "MMStar.tsv", columns, row).questions
    assert (question.id, question.answers, question.category) == ("0", ("C",), "coarse")
    columns = ["index", "image", "question", "A", "B", "C", "D", "answer", "image_path", "category"]
    row = [0, encoded(2), "What is the top?", 1, 2.5, "c", "d", "b", "ai2d/1.png", "foodWeb"]
    (question,) = written(tmp_path / "AI2D_TEST.tsv", columns, row).questions
    assert dict(question.options) == {"A": "1", "B": "2.5", "C": "c", "D": "d"}
    assert (question.answers, question.images) == (("B",), (picture(2),))


def test_mmvet_or_is_any_of_and_and_is_all_of(tmp_path: Path) -> None:
    answers = ["14", "4 pm <OR> 16:00", "-1 <AND> -5", "0 <AND> 1 <OR> 1 <AND> 2", "Oslo, Norway <AND> Rome"]
    rows = [[f"v1_{n}", encoded(1), "What is x?", a, "ocr,math", "s"] for n, a in enumerate(answers)]
    columns = ["index", "image", "question", "answer", "category", "source"]
    questions = written(tmp_path / "MMVet.tsv", columns, *rows).questions
    assert [(q.kind, q.answers) for q in questions] == [
        (None, ("14",)), (None, ("4 pm", "16:00")), ("set", ("-1, -5",)), ("set", ("0, 1", "1, 2")),
        ("text", ("Oslo, Norway and Rome",)),
    ]  # fmt: skip
    assert questions[0].text == "What is x?"


def test_a_list_of_texts_in_a_cell_is_several_references(tmp_path: Path) -> None:
    answers = ["['12 May', 'May 12']", '["a, b", "c"]', "['x']", "[1, 2]", "['yes', 'Yes']", "[]", "[left]"]
    rows = [[n, encoded(1), "What is x?", a] for n, a in enumerate(answers)]
    questions = written(tmp_path / "DocVQA_VAL.tsv", ["index", "image", "question", "answer"], *rows).questions
    assert [q.answers for q in questions] == [
        ("12 May", "May 12"), ("a, b", "c"), ("x",), ("[1, 2]",), ("yes", "Yes"), ("[]",), ("[left]",),
    ]  # fmt: skip
    assert match("It is May 12.", questions[0]).correct
    assert not match("['12 May', 'May 12'] or June", questions[0]).correct


def test_mathvista_choices_numbers_and_lists(tmp_path: Path) -> None:
    columns = ["index", "question", "image", "choices", "unit", "precision", "answer", "question_type", "answer_type",
               "pid", "split", "task", "skills", "answer_option"]  # fmt: skip
    hint = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
    choice = hint + "Question: Slope?\nChoices:\n(A) larger than\n(B) equal to"
    rows = [
        [1, choice, encoded(1), "['larger than', 'equal to']", None, None, "equal to", "multi_choice", "text", 1, "testmini", "geometry", "['algebra']", "B"],
        [2, "How long?", encoded(2), None, "$", 2.0, "1.20", "free_form", "float", 2, "testmini", "figure", "[]", None],
        [3, "How many?", encoded(3), None, None, None, 7, "free_form", "integer", 3, "testmini", "figure", "[]", None],
        [4, "Years?", encoded(4), None, None, None, "[2007, 2008]", "free_form", "list", 4, "testmini", "figure", "[]", None],
        [5, "Slope?", encoded(5), "['up', 'down']", None, None, "down", "multi_choice", "text", 5, "testmini", "figure", "[]", None],
        [6, "Same?", encoded(6), "['5', '7', '7']", None, None, "7", "multi_choice", "text", 6, "testmini", "figure", "[]", "C"],
    ]  # fmt: skip
    questions = written(tmp_path / "MathVista_MINI.tsv", columns, *rows).questions
    assert [(q.kind, q.answers, q.category) for q in questions] == [
        ("choice", ("B",), "geometry"), ("number", ("1.20",), "figure"), ("number", ("7",), "figure"),
        ("set", ("2007, 2008",), "figure"), ("choice", ("B",), "figure"), ("choice", ("C",), "figure"),
    ]  # fmt: skip
    assert questions[0].text == choice
    assert questions[4].text == "Slope?\nOptions:\nA. up\nB. down"


def test_hallusionbench_yes_no_and_rows_without_a_picture(tmp_path: Path) -> None:
    columns = ["index", "image", "question", "category", "l2-category", "answer"]
    rows = [
        ["VD_illusion_0_1_0", encoded(1), "Are they equal?", "VD", "illusion", "Yes"],
        ["VD_illusion_0_1_1", encoded(1), "Are they equal?", "VD", "illusion", 0],
        ["VS_chart_0_0_0", None, "Is it so?", "VS", "chart", "No"],
    ]
    loaded = written(tmp_path / "HallusionBench.tsv", columns, *rows)
    assert [(q.kind, q.answers, q.text) for q in loaded.questions] == [
        ("yes-no", ("yes",), "Are they equal?"), ("yes-no", ("no",), "Are they equal?"),
    ]  # fmt: skip
    assert [(r.line, r.problem) for r in loaded.rejected] == [(4, "no-image")]


def test_several_pictures_in_a_cell_and_paths_instead_of_base64(tmp_path: Path) -> None:
    columns = ["index", "image", "image_path", "question", "answer"]
    cell = str([encoded(1), encoded(2)])
    (question,) = written(tmp_path / "BLINK.tsv", columns, [1, cell, "['a.png', 'b.png']", "Same?", "no"]).questions
    assert question.images == (picture(1), picture(2))
    (tmp_path / "a.png").write_bytes(picture(3))
    columns = ["index", "image_path", "question", "answer"]
    loaded = written(
        tmp_path / "Local.tsv", columns, [1, "a.png", "Q?", "x"], [2, "['a.png']", "Q?", "x"], [3, "../b.png", "Q?", "x"]
    )  # fmt: skip
    assert [q.images for q in loaded.questions] == [(tmp_path / "a.png",)] * 2
    assert [r.problem for r in loaded.rejected] == ["path-escape"]


def test_what_vlmevalkit_adds_to_the_question(tmp_path: Path) -> None:
    columns = ["index", "image", "question", "answer"]
    (question,) = written(tmp_path / "ChartQA_TEST.tsv", columns, [1, encoded(1), "How many?", "3"]).questions
    assert question.text == "How many?\nAnswer the question using a single word or phrase."
    assert question.tolerance == 0.05


def test_columns_that_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'answer'"):
        written(tmp_path / "a.tsv", ["index", "image", "question"], [1, "x", "y"])
    with pytest.raises(DataError, match="no column 'image' or 'image_path'"):
        written(tmp_path / "a.tsv", ["index", "answer", "question"], [1, "x", "y"])
    written(tmp_path / "a.tsv", ["index", "image", "answer", "question"], [1, encoded(1), "x", "y"])
    with pytest.raises(ConfigError, match="no column 'split'"):
        load(tmp_path / "a.tsv", split="dev")


def test_a_large_file_is_kept_once_as_stored_bytes(tmp_path: Path) -> None:
    """Every second row refers to another; beside the pictures, once, there is only the line that is being read."""
    import tracemalloc

    size = 150_000
    body = base64.b64encode(picture(1) + bytes(size)).decode()
    with (tmp_path / "big.tsv").open("w") as file:
        file.write("index\timage\tquestion\tanswer\n")
        for n in range(400):
            file.write(f"{n}\t{body if n % 2 == 0 else n - 1}\tQ?\tx\n")
    stored = 200 * size
    tracemalloc.start()
    loaded = load(tmp_path / "big.tsv")
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(loaded.questions) == 400
    assert loaded.questions[1].images[0] is loaded.questions[0].images[0]
    assert peak < 1.1 * stored
