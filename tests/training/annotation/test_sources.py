"""Every form of data that can be annotated; what is wrong with one record stops nothing."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.backends.openai.pictures import data_url, size_of
from structdecode.core.errors import ConfigError, DataError, ImageError
from structdecode.core.problems import Rejected
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.annotation.sources import Item, Source, read
from tests.core.test_images import ODD_TAGS, bomb, odd_exif
from tests.training.annotation.world import record, write_records


def encoded(kind: str = "PNG", size: tuple[int, int] = (4, 3), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(buffer, kind, **options)
    return buffer.getvalue()


def taken(tmp_path: Path, *sources: str) -> tuple[list[Item], list[Rejected]]:
    entries = read([Source.parse(source) for source in sources], ImageStore(tmp_path / "out"))
    return [e for e in entries if isinstance(e, Item)], [e for e in entries if isinstance(e, Rejected)]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a/b.jsonl", Source(Path("a/b.jsonl"), name="b")),
        ("b.jsonl:cap=50", Source(Path("b.jsonl"), 50, name="b")),
        ("x:y.csv:images=/i m,name=coco,cap=3", Source(Path("x:y.csv"), 3, Path("/i m"), "coco")),
        ("d:split=train,question=query", Source(Path("d"), None, None, "d", "train", {"question": "query"})),
        ("my data.csv", Source(Path("my data.csv"), name="my-data")),
    ],
)
def test_the_syntax_of_a_source(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jsonl:cap=0", "at least 1, not '0'"), ("a.jsonl:cap=many", "cap must be"),
        ("a.jsonl:cap=5,colour=red", "'colour=red' is none of cap=..."), ("a.jsonl:cap=5,images=", "'images='"),
        ("a.jsonl:name=../up", "only letters"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("...", r"\.\.\.")):
        Source.parse(text)


def test_llava_records_with_turns_and_hints(tmp_path: Path) -> None:
    records = [record(1, hints="Count twice."), record(9, hints=["One.", "Two."]), record(2)]
    records[2]["conversations"][0] |= {"value": "<image>\nHow many?", "hints": "Only here."}
    records[2]["conversations"][1]["value"] = "<SUMMARY> s </SUMMARY> <CONCLUSION> 3 </CONCLUSION>"
    del records[0]["image"]
    items, rejected = taken(tmp_path, str(write_records(tmp_path, records)))
    assert rejected == []
    assert (items[0].picture, items[0].image, items[0].turns[0].hint) == (None, None, "Count twice.")
    assert [turn.question.answers for turn in items[1].turns] == [("1",), ("0",)]
    assert [turn.hint for turn in items[1].turns] == ["One.\nTwo."] * 2
    assert items[2].turns[0].question.text == "How many?" and items[2].turns[0].asked == "<image>\nHow many?"
    assert items[2].turns[0].question.answers == ("3",) and items[2].turns[0].hint == "Only here."
    assert items[1].image == "vqa/cards/9.png"
    picture = tmp_path / "out" / "vqa/cards/9.png"
    assert picture.samefile(tmp_path / "cards/9.png") and items[1].picture == picture


def test_a_table_with_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(encoded())
    table = "query,label,image,A,B,tip\nWhich?,B,a.png,cat,dog,Look.\nWhich?,C,a.png,cat,dog,\n"
    (tmp_path / "charts.csv").write_text(table)
    options = f"images={tmp_path / 'pictures'},question=query,answer=label,hints=tip"
    items, rejected = taken(tmp_path, f"{tmp_path / 'charts.csv'}:{options}")
    assert [item.id for item in items] == ["charts-2"]
    assert items[0].turns[0].asked == "Which?\nOptions:\nA. cat\nB. dog" and items[0].turns[0].hint == "Look."
    assert items[0].turns[0].question.answers == ("B",) and items[0].image == "charts/a.png"
    assert [(r.problem, r.line) for r in rejected] == [("answer-not-in-options", 3)]
    folder, _ = taken(tmp_path, f"{tmp_path}:{options}")
    assert [item.turns for item in folder] == [item.turns for item in items], "a folder with one table"


def test_a_saved_hugging_face_data_set(tmp_path: Path) -> None:
    import datasets

    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]
    features = datasets.Features({
        "id": datasets.Value("string"), "image": datasets.Image(),
        "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
    })  # fmt: skip
    rows = [{"id": "x", "image": {"bytes": encoded("JPEG"), "path": None}, "conversations": turns}]
    datasets.Dataset.from_list(rows, features).save_to_disk(tmp_path / "saved")
    items, rejected = taken(tmp_path, str(tmp_path / "saved"))
    assert rejected == [] and items[0].id == "x" and items[0].turns[0].question.answers == ("3",)
    assert items[0].image == f"saved/{items[0].digest}.jpg"
    assert items[0].picture is not None and items[0].picture.read_bytes() == encoded("JPEG")
    flat = {"question": ["Is it?"], "answer": ["yes"], "image": [{"bytes": encoded(), "path": None}]}
    features = datasets.Features(
        {**dict.fromkeys(("question", "answer"), datasets.Value("string")), "image": datasets.Image()}
    )
    splits = datasets.DatasetDict({name: datasets.Dataset.from_dict(flat, features) for name in ("train", "test")})
    splits.save_to_disk(tmp_path / "flat")
    items, _ = taken(tmp_path, f"{tmp_path / 'flat'}:split=test")
    assert items[0].id == "flat-1" and items[0].turns[0].question.answers == ("yes",)
    with pytest.raises(ConfigError, match="choose one"):
        taken(tmp_path, str(tmp_path / "flat"))


def test_caps_order_and_ids_of_several_sources(tmp_path: Path) -> None:
    one = write_records(tmp_path, [record(1), record(1), record(2), record(3)], "one.jsonl")
    two = write_records(tmp_path, [record(2), record(4)], "two.jsonl")
    items, rejected = taken(tmp_path, f"{one}:cap=2", str(two), f"{two}:cap=1,name=two")
    assert [item.id for item in items] == ["card-1", "card-2", "two/card-2", "card-4", "two-2/card-2"]
    assert [r.problem for r in rejected] == ["duplicate-id"]
    assert [i.image for i in items if "2" in i.id] == ["one/cards/2.png", "two/cards/2.png", "two-2/cards/2.png"]


def test_broken_records_are_named_one_by_one(tmp_path: Path) -> None:
    turns = record(1)["conversations"]
    good = write_records(tmp_path, [record(1)])
    bad: list[tuple[str, Any]] = [
        ("bad-json", "{"), ("not-an-object", [1]), ("missing-turn", {"id": "a", "conversations": turns[:1]}),
        ("turn-order", {"id": "b", "conversations": turns[::-1]}), ("wrong-type", {"id": "c", "conversations": 7}),
        ("wrong-type", {"id": "d", "conversations": [7, 8]}),
        ("empty-field", {"id": "e", "conversations": [{"from": "human", "value": "<image>"}, turns[1]]}),
        ("missing-field", {"id": "f", "conversations": [turns[0], {"from": "gpt"}]}),
        ("image-missing", {"id": "g", "image": "no.png", "conversations": turns}),
        ("not-an-image", {"id": "h", "image": "vqa.jsonl", "conversations": turns}),
        ("path-escape", {"id": "i", "image": "../up.png", "conversations": turns}),
        ("remote-image", {"id": "j", "image": "https://x.test/a.png", "conversations": turns}),
        ("several-images", {"id": "k", "image": ["cards/1.png", "cards/1.png"], "conversations": turns}),
        ("missing-field", {"id": "l", "question": "No answer?"}), ("wrong-type", {"id": [], "conversations": turns}),
        ("wrong-type", {"id": "m", "conversations": turns, "hints": {"a": 1}}),
    ]  # fmt: skip
    lines = [text if isinstance(text, str) else json.dumps(text) for _, text in bad]
    good.write_text("\n".join([*lines, good.read_text()]))
    items, rejected = taken(tmp_path, str(good))
    assert [r.problem for r in rejected] == [problem for problem, _ in bad]
    assert [r.line for r in rejected] == list(range(1, len(bad) + 1)) and len(items) == 1


@pytest.mark.parametrize(
    ("source", "message"), [("no.jsonl", "no such file"), ("a.txt", "unknown format"), (".", "data files")]
)
def test_a_source_that_is_none(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=message):
        taken(tmp_path, source)


# ------------------------------------------------------------------ pictures on their way to an API


@pytest.mark.parametrize(
    ("kind", "mime"),
    [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "png"), ("TIFF", "png")],
)
def test_the_mime_type_is_that_of_the_content(kind: str, mime: str, tmp_path: Path) -> None:
    path = tmp_path / "lies.jpg"
    path.write_bytes(encoded(kind))
    header, _, data = data_url(path).partition(";base64,")
    sent = base64.b64decode(data)
    assert header == f"data:image/{mime}"
    assert Image.open(io.BytesIO(sent)).format == mime.upper()
    assert (sent == path.read_bytes()) == (kind.lower() == mime), "bytes that can go as they are"


def test_a_turned_and_an_animated_picture_are_sent_as_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned, moving = tmp_path / "turned.jpg", tmp_path / "moving.gif"
    turned.write_bytes(encoded("JPEG", exif=exif))
    frames = [Image.new("RGB", (4, 3), (80 * n, 0, 0)) for n in range(3)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    for path, size in ((turned, (3, 4)), (moving, (4, 3))):
        header, _, data = data_url(path).partition(";base64,")
        assert header == "data:image/png" and Image.open(io.BytesIO(base64.b64decode(data))).size == size


def test_a_truncated_picture_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded("JPEG", (64, 64))[:-200])
    with pytest.raises(ImageError, match=r"half\.jpg"):
        data_url(path)


@pytest.mark.parametrize("odd", ODD_TAGS)
def test_odd_exif_data_hold_no_picture_up(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(encoded("JPEG", (4, 3), exif=odd_exif(6, ODD_TAGS[odd])))
    header, _, data = data_url(path).partition(";base64,")
    assert header == "data:image/png" and Image.open(io.BytesIO(base64.b64decode(data))).size == (3, 4)


def test_a_bomb_has_no_size_and_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert size_of(path) == (0, 0)
    with pytest.raises(ImageError, match="decompression bomb"):
        data_url(path)
