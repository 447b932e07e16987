from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.schemas import LLAVA_O1
from structdecode.training.reward_model.rows import StepDataset
from structdecode.verifiers.reward_model.collate import Mark
from structdecode.verifiers.reward_model.config import RewardConfig
from tests.training.reward_model.made import row, write

CONFIG = RewardConfig.of(LLAVA_O1)
GOOD = row("How many?", ["plan", "a red dot. a blue dot."], [True, False], [], "q")


def data(path: Path, *rows: dict[str, Any] | str, **options: Any) -> StepDataset:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    path.write_text("\n".join(lines) + "\n")
    return StepDataset(path, CONFIG, **options)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prompt": ""}, "missing-field"), ({"labels": [1, 0]}, "wrong-type"), ({"labels": [True]}, "wrong-length"),
        ({"stages": ["SUMMARY", "PLAN"]}, "unknown-stage"), ({"stages": ["CAPTION", "SUMMARY"]}, "stage-order"),
        ({"stages": ["SUMMARY", "SUMMARY"]}, "stage-order"), ({"completions": ["plan", "dots"]}, "missing-tag"),
        ({"completions": "x"}, "wrong-type"), ({"images": ["none.png"]}, "image-missing"), ({"images": 3}, "wrong-type"),
        ({"prompt": "\ud800?"}, "not-utf8"), ({"prompt": "a\0"}, "nul-byte"),
    ],
)  # fmt: skip
def test_a_bad_row_is_data(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    dataset = data(tmp_path / "r.jsonl", "", {**GOOD, **change}, GOOD, "{")
    assert [(bad.line, bad.problem) for bad in dataset.rejected] == [(2, problem), (4, "bad-json")]
    assert "\n" not in dataset.rejected[0].message
    assert len(dataset) == 1 and dataset.step(0).labels == (True, False)


def test_no_good_row_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 rows is good; the first: labels are null"):
        data(tmp_path / "r.jsonl", {**GOOD, "labels": None})
    with pytest.raises(DataError, match="No such file"):
        StepDataset(tmp_path / "none.jsonl", CONFIG)


def test_all_rows_of_a_question_are_on_one_side(tmp_path: Path) -> None:
    dataset = StepDataset(write(tmp_path / "r.jsonl", 8), CONFIG)
    train, held_out = dataset.train_test_split(0.25, seed=1)
    names = [{part[i].id for i in range(len(part))} for part in (train, held_out)]
    assert (len(train), len(held_out)) == (18, 6)
    assert len(names[1]) == 2 and not names[0] & names[1]
    other = {part.id for part in dataset.train_test_split(0.25, seed=2)[1]}  # type: ignore[attr-defined]
    assert other != names[1] or {p.id for p in dataset.train_test_split(2, seed=1)[1]} == names[1]  # type: ignore[attr-defined]
    for share in (0.0, 8, 20):
        with pytest.raises(ConfigError, match="8 questions: between the two is wanted"):
            dataset.train_test_split(share, seed=0)


def test_marks_stand_where_stages_end(tmp_path: Path) -> None:
    example = data(tmp_path / "r.jsonl", GOOD)[0]
    answer = example.messages[-1]["content"][0]["text"]
    assert answer == "<SUMMARY> plan </SUMMARY> <CAPTION> a red dot. a blue dot. </CAPTION>"
    assert [answer[: mark.end] for mark in example.marks] == ["<SUMMARY> plan </SUMMARY>", answer]
    assert [(mark.label, mark.kind) for mark in example.marks] == [(1.0, 0), (0.0, 1)]


def test_sentences_are_good_where_a_good_answer_goes_on_from_them(tmp_path: Path) -> None:
    right = row("How many?", ["plan", "a red dot. a tan dot. a dot."], [True, True], [], "q")
    wrong = row("How many?", ["plan", "a red dot. a fox. a dot."], [True, False], [], "q")
    elsewhere = row("How many?", ["other plan", "a red dot. a dot."], [False, False], [], "q")
    strange = row("How many?", ["plan", "a red dot. a fox. a dot."], [True, True], [], "another question")
    dataset = data(tmp_path / "r.jsonl", right, wrong, elsewhere, strange, sentences=True)

    def sentences(index: int) -> list[tuple[str, float | None]]:
        answer = dataset[index].messages[-1]["content"][0]["text"]
        return [(answer[: m.end].split("<CAPTION> ")[1], m.label) for m in dataset[index].marks if m.kind == 5]

    assert sentences(0) == [("a red dot.", 1.0), ("a red dot. a tan dot.", 1.0)]
    assert sentences(1) == [("a red dot.", 1.0), ("a red dot. a fox.", 0.0)]
    assert sentences(2) == []  # unknown: no good caption stands behind that summary
    assert [m for m in dataset[0].marks if m.kind < 4] == list(data(tmp_path / "s.jsonl", right)[0].marks)
    assert list(dataset[1].marks) == sorted(dataset[1].marks, key=lambda m: m.end)


def test_the_last_label_may_come_from_another_file(tmp_path: Path) -> None:
    answer = row("How many?", ["p", "c", "r", "2"], [True, False, False, False], [], "q")
    data(tmp_path / "o.jsonl", {**answer, "labels": [True, True, False, True]}, "{", {**GOOD, "labels": [True, True]})
    dataset = data(
        tmp_path / "r.jsonl", answer, {**answer, "prompt": "x", "origin": {"id": "p"}}, outcomes=tmp_path / "o.jsonl"
    )
    assert dataset.step(0).labels == (True, False, False, True)
    assert dataset.step(1).labels == (True, False, False, False)  # another question
    assert dataset.right.tolist() == [True, False]
    assert dataset[0].marks[-1] == Mark(dataset[1].marks[-1].end, 1.0, 3)


def test_a_file_that_changed_is_found_out(tmp_path: Path) -> None:
    dataset = data(tmp_path / "r.jsonl", GOOD, GOOD)
    (tmp_path / "r.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"r.jsonl:2: the file changed"):
        dataset[1]
