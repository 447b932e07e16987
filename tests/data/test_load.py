from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from structdecode.core.errors import ConfigError, DataError, UnknownNameError
from structdecode.data import load
from structdecode.pocket import world
from tests.data.malformed import conversation, dump, picture, vqa


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "good.png").write_bytes(picture())
    (folder / "rows.jsonl").write_bytes(b"".join(dump(vqa(n)) + b"\n" for n in range(6)))
    return folder / "rows.jsonl"


def test_the_digest_is_of_the_content_and_of_nothing_else(data: Path, tmp_path: Path) -> None:
    digest = load(data).digest
    shutil.copytree(data.parent, tmp_path / "elsewhere")
    data.rename(data.parent / "other.jsonl")
    assert load(tmp_path / "elsewhere" / "rows.jsonl").digest == load(data.parent / "other.jsonl").digest == digest
    assert load(data.parent / "other.jsonl", limit=5).digest != digest
    (data.parent / "good.png").write_bytes(picture(9))
    assert load(data.parent / "other.jsonl").digest != digest


@pytest.mark.parametrize("field", ["id", "question", "answer", "category", "kind", "tolerance", "options"])
def test_every_field_counts_in_the_digest(data: Path, field: str) -> None:
    base = {"id": "a", "question": "q", "answer": "0.5", "category": "c", "kind": "text", "tolerance": 1}
    other = {"kind": "number", "tolerance": 2, "options": ["0.5", "1"]}.get(field, "0.25")
    digests = []
    for row in (base, {**base, field: other}):
        data.write_text(json.dumps(row))
        loaded = load(data)
        assert not loaded.rejected
        digests.append(loaded.digest)
    assert digests[0] != digests[1]


def test_the_digest_is_the_same_in_another_process(data: Path) -> None:
    code = f"from structdecode.data import load; print(load({str(data)!r}).digest, load('pocket:test').digest)"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert runs == {f"{load(data).digest} {load('pocket:test').digest}\n".encode()}


def test_limit_stops_reading(data: Path) -> None:
    with data.open("ab") as file:
        file.write(b"broken\n")
    assert [q.id for q in load(data, limit=4).questions] == ["v0", "v1", "v2", "v3"]
    assert load(data, limit=6).rejected == ()
    assert [(r.line, r.problem) for r in load(data).rejected] == [(7, "bad-json")]
    with pytest.raises(ConfigError, match="limit must be at least 1, not 0"):
        load(data, limit=0)


def test_pictures_are_looked_at_only_if_asked(data: Path) -> None:
    (data.parent / "good.png").write_bytes(b"text")
    assert [r.problem for r in load(data).rejected] == ["not-an-image"] * 6
    assert len(load(data, check_images=False).questions) == 6
    (data.parent / "good.png").unlink()
    assert [r.problem for r in load(data).rejected] == ["image-missing"] * 6
    assert len(load(data, check_images=False).questions) == 6


def test_a_file_of_conversations_is_told_by_its_rows_even_behind_broken_ones(data: Path) -> None:
    data.write_bytes(b"broken\n" * 3 + dump(conversation(1)) + b"\n")
    assert load(data).questions[0].stages["CONCLUSION"] == "1"
    assert load(data).digest == load(f"llava:{data}").digest
    assert {r.problem for r in load(f"vqa:{data}").rejected} == {"bad-json", "missing-field"}


def test_a_folder_with_one_data_file_is_that_file(data: Path) -> None:
    assert load(data.parent).digest == load(data).digest
    (data.parent / "more.csv").write_text("question,answer\nq,a\n")
    with pytest.raises(DataError, match=r"2 data files \(more\.csv, rows\.jsonl\): name the one"):
        load(data.parent)


def test_what_cannot_be_loaded_is_said_in_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "wide.csv").write_text("question,answer\n", encoding="utf-16")
    for source, message in (
        (tmp_path / "none.jsonl", "no such file"),
        (f"vqa:{tmp_path / 'none.csv'}", "no such file"),
        ("mmstar", "no such file; or begin it with a format: llava:, vqa:"),
        ("x" * 5000, "no such file"),
        (tmp_path / "a.xlsx", "unknown format '.xlsx'"),
        (tmp_path / "a.csv", "the file is empty"),
        (tmp_path / "wide.csv", "no header"),
        (tmp_path, "2 data files"),
        (tmp_path / "data" / "good.png", "unknown format '.png'"),
    ):
        with pytest.raises(DataError) as caught:
            load(source)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="columns is for"):
        load("pocket:test", columns={"question": "q"})
    with pytest.raises(ConfigError, match="leave split out"):
        load(f"llava:{data}", split="test")


def test_the_pocket_world() -> None:
    loaded = load("pocket:test", limit=20)
    scenes = world.scenes("test", 0)
    for number, question in enumerate(loaded.questions):
        scene = next(scenes)
        assert question.id == f"pocket-test-0-{number}"
        assert (question.text, question.answers) == (scene.question.text, (scene.answer,))
        assert dict(question.stages) == scene.stages
        assert (question.kind, question.category) == ("number", scene.question.kind)
        assert question.prompt().images[0].image.tobytes() == scene.render().tobytes()
    assert load("pocket:", split="validation", limit=2).name == "pocket-validation"
    assert load("pocket:test:1", limit=20).digest != loaded.digest
    with pytest.raises(UnknownNameError, match="unknown split 'tst'"):
        load("pocket:tst")
    with pytest.raises(ConfigError, match="the seed has to be a number"):
        load("pocket:test:x")
    with pytest.raises(ConfigError, match="do not go together"):
        load("pocket:test", split="train")


def test_the_pocket_world_gives_500_unless_told() -> None:
    assert len(load("pocket:test").questions) == 500
