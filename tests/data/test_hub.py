from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from structdecode.core.errors import ConfigError, DataError, UnknownNameError
from structdecode.core.images import load_picture
from structdecode.data import load
from tests.data.malformed import picture


def table(count: int) -> datasets.Dataset:
    features = datasets.Features({
        "query": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"]),
        "choices": datasets.List(datasets.Value("string")), "picture": datasets.Image(),
    })  # fmt: skip
    rows = {
        "query": [f"Which {n}?" for n in range(count)], "label": [n % 2 for n in range(count)],
        "choices": [["cat", "dog"]] * count, "picture": [{"bytes": picture(n), "path": None} for n in range(count)],
    }  # fmt: skip
    return datasets.Dataset.from_dict(rows, features)


COLUMNS = {"question": "query", "answer": "label", "image": "picture"}


def test_a_saved_folder(tmp_path: Path) -> None:
    table(3).save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "saved", f"hf:{tmp_path / 'saved'}"):
        loaded = load(source, columns=COLUMNS)
        assert loaded.rejected == ()
        assert [q.answers for q in loaded.questions] == [("A",), ("B",), ("A",)]
        assert loaded.questions[1].images == (picture(1),)
        assert loaded.questions[1].text == "Which 1?\nOptions:\nA. cat\nB. dog"
    assert loaded.name == "saved"


def test_splits_and_lists_of_pictures(tmp_path: Path) -> None:
    rows = {
        "question": ["Same?", "Other?"], "answer": ["yes", None],
        "images": [[{"bytes": picture(1), "path": None}, {"bytes": picture(2), "path": None}], []],
    }  # fmt: skip
    features = datasets.Features({
        "question": datasets.Value("string"), "answer": datasets.Value("string"), "images": datasets.List(datasets.Image()),
    })  # fmt: skip
    many = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict({"dev": many, "test": many.select([1])}).save_to_disk(tmp_path / "saved")
    loaded = load(tmp_path / "saved", split="dev")
    assert loaded.questions[0].images == (picture(1), picture(2))
    assert [(r.line, r.problem) for r in loaded.rejected] == [(2, "missing-field")]
    with pytest.raises(ConfigError, match="has the splits dev, test: choose one"):
        load(tmp_path / "saved")
    with pytest.raises(UnknownNameError, match="known: dev, test"):
        load(tmp_path / "saved", split="train")


def test_paths_in_a_text_column_need_a_folder(tmp_path: Path) -> None:
    rows = {"question": ["Q?"] * 2, "answer": ["a"] * 2, "image": ["a.png", str(tmp_path / "a.png")]}
    (tmp_path / "a.png").write_bytes(picture(1))
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    assert [r.problem for r in load(tmp_path / "saved").rejected] == ["no-image-folder"] * 2
    assert [q.images for q in load(tmp_path / "saved", images=tmp_path).questions] == [(tmp_path / "a.png",)] * 2


def test_a_repository_of_the_hubs_form(tmp_path: Path) -> None:
    """A local folder of Parquet files goes through the same `load_dataset` as a hub name."""
    (tmp_path / "repo" / "data").mkdir(parents=True)
    table(2).to_parquet(tmp_path / "repo" / "data" / "test-00000-of-00001.parquet")
    loaded = load(f"hf:{tmp_path / 'repo'}", split="test", columns=COLUMNS)
    assert [q.answers for q in loaded.questions] == [("A",), ("B",)]
    assert load_picture(loaded.questions[0].images[0]).image.size == (16, 16)


def test_a_name_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"hf:\S+: cannot be loaded"):
        load(f"hf:{tmp_path / 'nothing'}")
