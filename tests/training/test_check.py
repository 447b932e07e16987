from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.types import Schema, Stage
from structdecode.data.files import json_rows
from structdecode.pocket import checkpoint_path
from structdecode.training.check import Limits, check
from structdecode.training.check_command import find_set
from structdecode.training.check_report import CheckReport
from structdecode.training.lengths import TokenCounter
from structdecode.training.problems import KINDS
from tests import processes
from tests.backends.transformers import tiny
from tests.data.malformed import ANSWER, CONVERSATIONS, conversation, picture, write_pictures

TURNS = [{"from": "human", "value": "How many dogs?"}, {"from": "gpt", "value": ANSWER}]
SAID = {  # what `check` makes of the damaged rows that the loader's tests have, where it looks closer than the loader
    "image cut off": "broken-image",
    "huge line": "wrong-type",  # no conversations, no turns; below the limit on lines here
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images")
    for name in ("coco/train2017/1.jpg", "coco/train2017/2.jpg", "geoqa+/images/3.png", "CLEVR_v1.0/images/4.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(picture(int(name[-5])))
    return tmp_path


def write(folder: Path, *rows: dict[str, Any] | bytes) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "train.jsonl"


def checked(folder: Path, *rows: dict[str, Any] | bytes, **options: Any) -> CheckReport:
    return check(write(folder, *rows), images=folder / "images", workers=2, **options)


def real_rows() -> list[dict[str, Any]]:
    """Rows in the form of LLaVA-CoT-100k, its quirks included."""
    compact = "".join(f"<{s}>{s.lower()} here</{s}>" for s in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION"))
    spaced = compact.replace("><", "> <").replace("here<", "here \n<").replace(">here", "> here")
    lined = compact.replace("><", ">\n\n<") + "\n"
    human = {"from": "human", "value": "<image>\nWhat is it?"}
    many = [
        human,
        {"from": "gpt", "value": lined},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": spaced},
    ]
    return [
        {"id": "sqa/1", "image": "coco/train2017/1.jpg", "conversations": [human, {"from": "gpt", "value": compact}]},
        {"id": 7, "image": "coco/train2017/2.jpg", "conversations": many},
        {"id": "geo_3", "image": "geoqa+/images/3.png", "conversations": [human, {"from": "gpt", "value": spaced}]},
        {"id": "text", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": lined}]},
        {"id": "own", "source": "ours", "image": "CLEVR_v1.0/images/4.png", "conversations": [human, many[1]]},
    ]  # fmt: skip


def test_rows_of_the_real_sets_form_are_all_good_and_counted(folder: Path) -> None:
    report = checked(folder, *real_rows())
    assert not report.problems
    found = report.as_dict()
    assert (found["rows"], found["good"], found["without_image"], found["several_pairs"]) == (5, 5, 1, 1)
    assert {name: (s["rows"], s["pairs"], s["images"]) for name, s in found["sources"].items()} == {
        "coco": (2, 3, 2), "geoqa+": (1, 1, 1), "(no image)": (1, 1, 0), "ours": (1, 1, 1),
    }  # fmt: skip
    assert list(found["stages"]) == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
    assert found["stages"]["REASONING"] == {"count": 6, "median": 14, "p95": 14, "max": 14}  # "reasoning here"
    assert found["sources"]["coco"]["stages"]["CAPTION"]["count"] == 3


@pytest.mark.parametrize("damage", sorted(set(CONVERSATIONS) - {"huge line", "Latin-1"}))
def test_every_damage_that_the_loader_knows_is_named_with_a_remedy(folder: Path, damage: str) -> None:
    problem, make = CONVERSATIONS[damage]
    good, other = conversation("good-first"), conversation("last", image="coco/train2017/1.jpg")
    report = checked(folder, good, make(2), other)
    assert SAID.get(damage, problem) in report.errors, report.problems
    assert KINDS[problem].remedy
    assert report.errors[SAID.get(damage, problem)].first[0][0] == 2
    assert (report.rows, report.good) == (3, 2)


def test_all_that_is_wrong_with_a_row_is_said_at_once(folder: Path) -> None:
    bad = [*TURNS, {"from": "human", "value": "And?"}, {"from": "gpt", "value": ANSWER.replace("<CAPTION>", "")}]
    report = checked(folder, {"image": "nowhere.png", "conversations": bad})
    assert {name: found.first for name, found in report.errors.items()} == {
        "missing-field": [(1, "no 'id': add one")],
        "missing-tag": [(1, "answer 2: <CAPTION> is there 0 times: it has to be once")],
        "image-missing": report.errors["image-missing"].first,
    }
    assert report.good == 0


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (TURNS[:1], "missing-turn"),
        ([*TURNS, TURNS[0]], "missing-turn"),
        ([*TURNS, TURNS[1]], "turn-order"),
        ([*TURNS, TURNS[0], TURNS[0]], "turn-order"),
        ([{"from": "system", "value": "Be good."}, *TURNS], "turn-order"),
        ([*TURNS, {"from": "human", "value": " \n"}, TURNS[1]], "empty-field"),
        ([{"from": "human", "value": "<image>\n"}, TURNS[1]], "empty-field"),
    ],
)
def test_turns_alternate_and_none_is_empty(folder: Path, turns: list[dict[str, str]], problem: str) -> None:
    assert list(checked(folder, {"id": 1, "image": "good.png", "conversations": turns}).errors) == [problem]


def test_pictures_are_decoded_to_the_last_pixel(folder: Path) -> None:
    """A JPEG that is cut off in its pixels begins like a good one and passes Pillow's verify."""
    whole = folder / "images" / "whole.jpg"
    Image.effect_noise((200, 200), 80).convert("RGB").save(whole, quality=95)
    (folder / "images" / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    report = checked(folder, conversation(1, image="whole.jpg"), conversation(2, image="cut.jpg"))
    assert report.errors["broken-image"].first[0][0] == 2
    assert report.good == 1


def test_doubles_by_id_and_by_content(folder: Path) -> None:
    (folder / "images" / "copy.png").write_bytes((folder / "images" / "good.png").read_bytes())
    report = checked(
        folder,
        conversation(1),
        conversation(1, image="coco/train2017/1.jpg"),
        conversation(2, ANSWER.replace("\n", "  "), image="copy.png"),
        conversation(3, image="coco/train2017/2.jpg"),
    )
    assert report.errors["duplicate-id"].first == [(2, "id 'c1' is line 1's")]
    assert report.warnings["duplicate-content"].first == [(3, "the same as line 1")]
    assert report.good == 2


def test_several_pictures_and_stray_marks_are_warnings(folder: Path) -> None:
    two = conversation(1, image=["good.png", "coco/train2017/1.jpg"])
    marked = conversation(2, image="coco/train2017/1.jpg")
    later = [*TURNS, {"from": "human", "value": "<image>And?"}, TURNS[1]]
    report = checked(folder, two, {**marked, "conversations": later}, conversation(3, image="coco/train2017/2.jpg"))
    assert not report.errors
    assert {name: [line for line, _ in found.first] for name, found in report.warnings.items()} == {
        "several-images": [1], "image-mark": [2],
    }  # fmt: skip
    assert (report.good, report.several_images) == (3, 1)


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(tiny.build("llava")[1])


def test_lengths_are_the_models_own_tokens(folder: Path, counter: TokenCounter) -> None:
    processor = tiny.build("llava")[1]
    text = f"<|bos|><|user|><image>How many dogs?<|assistant|>{ANSWER}<|eot|>"
    exact = processor(text=[text], images=[Image.new("RGB", (16, 16))], add_special_tokens=False)["input_ids"][0]
    fits = checked(folder, conversation(1), limits=Limits(counter, len(exact)))
    assert not fits.problems and list(fits.lengths) == [len(exact)] and fits.unit == "tokens"
    long = checked(folder, conversation(1), limits=Limits(counter, len(exact) - 1))
    assert long.errors["too-long"].first == [(1, f"{len(exact)} tokens, more than {len(exact) - 1}")]


def test_control_tokens_in_texts_are_pointed_out(folder: Path, counter: TokenCounter) -> None:
    turns = [{"from": "human", "value": "Is <|eot|> a word?"}, TURNS[1]]
    mark = [TURNS[0], {"from": "gpt", "value": ANSWER.replace("A dog", "A dog <image>")}]
    rows = [{"id": n, "image": "good.png", "conversations": t} for n, t in enumerate((turns, mark))]
    report = checked(folder, *rows, limits=Limits(counter))
    assert report.warnings["special-token-in-text"].first == [(1, "'<|eot|>' in a text")]
    said = "the answer holds '<image>', which stands for a picture: take it out"
    assert report.errors["image-token-in-text"].first == [(2, said)]


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize(
    "mark",
    [
        "<|image|>", "<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<|IMAGE_PLACEHOLDER|>", "<|media_pad|>",
        "<image_soft_token>", "<start_of_image>", "<IMG_CONTEXT>", "<imgpad>", "<video>", "[IMG]", "[IMG_BREAK]",
    ],
)  # fmt: skip
def test_what_stands_for_a_picture_with_some_model_is_an_error_without_one(folder: Path, mark: str, turn: int) -> None:
    turns = [dict(each) for each in TURNS]
    turns[turn]["value"] = turns[turn]["value"].replace("dog", f"dog {mark}", 1)
    report = checked(folder, {"id": 1, "image": "good.png", "conversations": turns})
    ((line, message),) = report.errors["image-token-in-text"].first
    assert (line, report.good) == (1, 0) and repr(mark) in message


@pytest.mark.parametrize("text", ["<img src='a'>", "[img]", "<imagine>", "</image>", "an image", "<|im_x|>"])
def test_what_only_looks_like_a_picture_mark_is_a_text(folder: Path, text: str) -> None:
    turns = [TURNS[0], {"from": "gpt", "value": ANSWER.replace("dog", f"dog {text}", 1)}]
    assert checked(folder, {"id": 1, "image": "good.png", "conversations": turns}).good == 1


def test_a_schemas_own_tags_are_no_picture_marks(folder: Path) -> None:
    schema = Schema(
        "own", (Stage("NOTES", "<image_notes>", "</image_notes>"), Stage("ANSWER", "<ANSWER>", "</ANSWER>"))
    )
    turns = [TURNS[0], {"from": "gpt", "value": "<image_notes> Dogs. </image_notes> <ANSWER> Two. </ANSWER>"}]
    assert checked(folder, {"id": 1, "image": "good.png", "conversations": turns}, schema=schema).good == 1


def test_fix_writes_the_good_rows_byte_for_byte_and_they_pass(folder: Path) -> None:
    rows = [json.dumps(row, indent=None, separators=(" ,", ":  ")).encode() for row in real_rows()]
    damaged = [make(n) for n, (_, make) in enumerate(CONVERSATIONS.values())]
    path = write(folder, rows[0], *damaged[:20], rows[1], b"", rows[2], *damaged[20:], rows[3], rows[4], rows[4])
    first = check(path, images=folder / "images", fix=folder / "good.jsonl", workers=3)
    assert first.good == 5 and first.errors
    assert (folder / "good.jsonl").read_bytes() == b"\n".join(rows) + b"\n"
    assert not check(folder / "good.jsonl", images=folder / "images").problems


def test_fix_never_overwrites_the_set_and_leaves_nothing_half_written(folder: Path) -> None:
    path = write(folder, *real_rows())
    with pytest.raises(ConfigError, match="the set itself"):
        check(path, images=folder / "images", fix=folder / "images" / ".." / "train.jsonl")

    def stop(line: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(path, images=folder / "images", fix=folder / "good.jsonl", progress=stop)
    assert sorted(p.name for p in folder.iterdir()) == ["images", "outside.png", "train.jsonl"]


def test_rows_are_read_as_they_are_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the file, no more rows are in memory than threads have in work."""
    read, done, most = 0, 0, 0

    def counted(path: Path) -> Iterator[Any]:
        nonlocal read, most
        for row in json_rows(path):
            read += 1
            most = max(most, read - done)
            yield row

    def count(line: int) -> None:
        nonlocal done
        done += 1

    monkeypatch.setattr("structdecode.training.check.json_rows", counted)
    names = [f"coco/train2017/{1 + n % 2}.jpg" for n in range(300)]
    turns = [{"from": "human", "value": "Which number is this?"}, TURNS[1]]
    report = checked(
        folder, *({"id": n, "image": name, "conversations": turns} for n, name in enumerate(names)), progress=count
    )
    assert report.rows == done == 300
    assert most <= 2 * 8 + 1


def test_a_picture_of_many_rows_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from structdecode.training import check as module

    decoded: list[str] = []
    load: Callable[..., Any] = module.load_picture
    monkeypatch.setattr(module, "load_picture", lambda source: decoded.append(str(source)) or load(source))
    rows = [conversation(n, ANSWER.replace("One", f"One {n}")) for n in range(20)]
    assert check(write(folder, *rows), images=folder / "images", workers=1).good == 20
    assert len(decoded) == 1


def test_which_file_of_a_folder(folder: Path) -> None:
    with pytest.raises(DataError, match="0 JSONL files"):
        find_set(folder)
    train = write(folder, *real_rows())
    (folder / "other.jsonl").write_text("")
    assert find_set(folder) == train == find_set(train)
    with pytest.raises(DataError, match="no such file"):
        find_set(folder / "none.jsonl")
    with pytest.raises(DataError, match="no rows"):
        check(folder / "other.jsonl")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return processes.run("data", "check", *arguments, COLUMNS="200")


def test_the_command(folder: Path) -> None:
    warned = write(folder, *real_rows(), {**real_rows()[0], "id": "again"})
    done = run(warned, "--images", folder / "images", "--json", "--out", folder / "report.json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "report.json").read_text())
    assert list(json.loads(done.stdout)["warnings"]) == ["duplicate-content"]

    write(folder, *real_rows(), conversation(1, image="[bold]nowhere.png"), b"{oops")
    done = run(folder, "--images", folder / "images", "--fix", folder / "good.jsonl")
    assert done.returncode == 1
    for said in ("error image-missing: 1 row", f"{warned}:6: ", "[bold]nowhere.png", "-> correct the path", "bad-json"):
        assert said in done.stdout
    assert "Wrote 5 good rows" in done.stdout and done.stderr == ""

    for wrong in ([folder / "none.jsonl"], [folder, "--images", "nowhere"], [folder, "--max-length", 5]):
        done = run(*wrong)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done


@pytest.mark.parametrize("length", [30, 200])
def test_paths_are_neither_wrapped_nor_cut(folder: Path, length: int) -> None:
    """However long they are and however narrow the terminal: a part of a path is none that can be opened."""
    deep = folder / "d"
    for _ in range(4):
        deep = deep / ("n" * length)
    write_pictures(deep)
    rows = [conversation(n, image=str(deep / name)) for n, name in enumerate(("no.png", "text.png", "cut.png"))]
    rows.append(conversation(9, image=f"../{deep}/outside.png"))
    write(folder, *rows)
    done = processes.run("data", "check", folder, "--images", folder / "d", COLUMNS="60")
    for row in rows:
        assert f"'{row['image']}'" in done.stdout, row["image"]


@pytest.mark.parametrize("model", ["pocket", str(checkpoint_path())], ids=["name", "path"])
def test_the_command_counts_with_a_checkpoints_processor(model: str, folder: Path) -> None:
    write(folder, *real_rows())
    done = run(folder, "--images", folder / "images", "--json", "--model", model, "--max-length", 40)
    found = json.loads(done.stdout)
    assert (done.returncode, found["unit"], found["example_tokens"]["count"]) == (1, "tokens", 5)
    assert found["errors"]["too-long"]["count"] == 1  # the row of two pairs
