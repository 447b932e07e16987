from __future__ import annotations

import json
from pathlib import Path

import pytest

from structdecode.data import load
from structdecode.pocket import world
from structdecode.pocket.samples import write_samples
from tests.data.malformed import picture

STAGES = {"SUMMARY": "I will count.", "CAPTION": "Two dogs.", "REASONING": "One, two.", "CONCLUSION": "B"}


def answer(between: str, inside: str, leave_out: str = "") -> str:
    return between.join(f"<{k}>{inside}{v}{inside}</{k}>" for k, v in STAGES.items() if k != leave_out)


def record(name: object, question: str, reply: str, image: str | None = "coco/train2017/1.jpg", more: int = 0) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    turns += [{"from": "human", "value": "And cats?"}, {"from": "gpt", "value": reply.replace("two", "three")}] * more
    return json.dumps({"id": name, **({"image": image} if image else {}), "conversations": turns})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "train2017" / "1.jpg").write_bytes(picture())
    return tmp_path / "train.jsonl"


@pytest.mark.parametrize(("between", "inside"), [("", ""), (" ", " "), ("\n\n", ""), ("\r\n\t", "\n\n ")])
def test_the_four_stages_are_read_whatever_the_white_space(data: Path, between: str, inside: str) -> None:
    data.write_text(record("sqa/1", "How many dogs?\nA. 1\nB. 2", answer(between, inside)) + "\n", encoding="utf-8")
    (question,) = load(data).questions
    assert dict(question.stages) == STAGES
    assert (question.id, question.text, question.answers) == ("sqa/1", "How many dogs?\nA. 1\nB. 2", ("B",))
    assert question.images == (data.parent / "coco/train2017/1.jpg",)
    assert question.source == f"{data}:1"
    assert question.prompt().images[0].image.size == (16, 16)


def test_records_without_a_picture_need_no_caption(data: Path) -> None:
    rows = [record(1, "How many?", answer(" ", ""), None), record(2, "How many?", answer(" ", "", "CAPTION"), None)]
    data.write_text("\n".join(rows) + "\n")
    loaded = load(data)
    assert [(q.id, q.images, "CAPTION" in q.stages) for q in loaded.questions] == [("1", (), True), ("2", (), False)]
    data.write_text(record(3, "How many?", answer(" ", "", "CAPTION")))
    assert [r.problem for r in load(data).rejected] == ["missing-tag"]


def test_of_several_turns_the_first_pair_is_asked_and_the_image_mark_is_taken_off(data: Path) -> None:
    data.write_text(record(1, "<image>\nHow many dogs?", answer(" ", ""), more=2))
    (question,) = load(data).questions
    assert question.text == "How many dogs?"
    assert question.stages["REASONING"] == "One, two."


def test_the_samples_that_the_pocket_world_writes_are_read_back(tmp_path: Path) -> None:
    write_samples(tmp_path / "out", "test", 5, 3, force=False)
    loaded = load(tmp_path / "out")
    scenes = world.scenes("test", 3)
    assert not loaded.rejected
    for question in loaded.questions:
        scene = next(scenes)
        assert dict(question.stages) == scene.stages
        assert question.prompt().images[0].image.tobytes() == scene.render().tobytes()
    same = load("pocket:test:3", limit=5).questions
    assert [(q.id, q.text, q.stages) for q in loaded.questions] == [(q.id, q.text, q.stages) for q in same]
