"""Where a row's pictures are named: under ``image`` or ``images``, for every reader; and that its marks agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.problems import Rejected
from structdecode.core.schemas import LLAVA_O1
from structdecode.data import load
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.annotation.sources import Source
from structdecode.training.annotation.sources import read as read_sources
from structdecode.training.check import check
from structdecode.training.examples import ConversationDataset
from structdecode.training.problems import kind
from structdecode.training.reward_model.rows import StepDataset
from structdecode.verifiers.reward_model.config import RewardConfig
from tests.data.malformed import ANSWER, picture

Found = tuple[list[int], list[str]]
"""How many pictures each good row has, and the problems of the others. One good row is always there, the last."""


def checking(path: Path, folder: Path) -> Found:
    report = check(path)
    return [1] * report.good, [name for name in report.errors if kind(name).error]


def training(path: Path, folder: Path) -> Found:
    data = ConversationDataset(path)
    return [len(data[i].images) for i in range(len(data))], [bad.problem for bad in data.rejected]


def comparing(path: Path, folder: Path) -> Found:
    return loaded(f"llava:{path}")


def comparing_vqa(path: Path, folder: Path) -> Found:
    return loaded(f"vqa:{path}", images=folder)


def loaded(data: str, **options: Any) -> Found:
    found = load(data, **options)
    return [len(question.images) for question in found.questions], [bad.problem for bad in found.rejected]


def annotating(path: Path, folder: Path) -> Found:
    found = list(read_sources([Source.parse(str(path))], ImageStore(folder / "album")))
    return (
        [int(item.picture is not None) for item in found if not isinstance(item, Rejected)],
        [item.problem for item in found if isinstance(item, Rejected)],
    )


def scoring(path: Path, folder: Path) -> Found:
    data = StepDataset(path, RewardConfig.of(LLAVA_O1))
    return [len(data[i].images) for i in range(len(data))], [bad.problem for bad in data.rejected]


READERS: dict[str, Callable[[Path, Path], Found]] = {
    "compare vqa": comparing_vqa, "annotate vqa": annotating, "check": checking, "train": training, "compare": comparing, "annotate": annotating, "train-verifier": scoring,
}  # fmt: skip


def row(reader: str, number: int, question: str, **named: Any) -> str:
    if reader == "train-verifier":
        steps = {"completions": ["<SUMMARY> plan </SUMMARY>"], "stages": ["SUMMARY"], "labels": [True]}
        return json.dumps({"prompt": question, **steps, "origin": {"id": str(number)}, **named})
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": ANSWER}]
    if reader.endswith(" vqa"):
        return json.dumps({"id": number, "question": question, "answer": "three", **named})
    return json.dumps({"id": number, "conversations": turns, **named})


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize(
    ("question", "named", "problem"),
    [
        ("How many?", {"image": "a.png"}, None),
        ("How many?", {"images": "a.png"}, None),
        ("How many?", {"images": ["a.png"]}, None),
        ("<image>\nHow many?", {"images": ["a.png"], "image": None}, None),
        ("<image>\nHow many?", {"images": ["a.png"], "image": "a.png"}, None),
        ("<image>\nHow many?", {}, "mark-without-image"),
        ("<image>\nHow many?", {"image": ""}, "mark-without-image"),
        ("<image>\nHow many?", {"images": []}, "mark-without-image"),
        ("<image><image>\nHow many?", {"images": ["a.png"]}, "mark-without-image"),
        ("<image>\nHow many?", {"images": ["a.png", "b.png"]}, "image-without-mark"),
        ("How many?", {"images": ["a.png"], "image": "b.png"}, "two-image-fields"),
    ],
)
def test_every_reader_knows_both_fields_and_what_the_marks_say(
    tmp_path: Path, reader: str, question: str, named: dict[str, Any], problem: str | None
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(ord(name[0])))
    path = tmp_path / "train.jsonl"
    path.write_text(row(reader, 1, question, **named) + "\n" + row(reader, 2, "Another?", image="b.png") + "\n")
    pictures, problems = READERS[reader](path, tmp_path)
    assert problems == ([problem] if problem else []) and pictures == [1] * (1 if problem else 2)
