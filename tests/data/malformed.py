"""A thousand damaged rows of many kinds, good ones between them, in four files.

Each damage is a function from a number to the bytes of a row, named for what it does, beside the problem that is to be
reported. Good rows stand before and behind every damaged one, so that a loader that loses its place is found out.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

MAX_LINE = 200_000
"""The longest line, in the test."""

Make = Callable[[int], bytes]


@dataclass
class Damaged:
    """A file, what has to be said of it, and which rows have to come through."""

    path: Path
    problems: list[tuple[int, str]] = field(default_factory=list)
    good: list[tuple[int, str]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)


def picture(number: int = 0) -> bytes:
    stored = io.BytesIO()
    noise = random.Random(number).randbytes(16 * 16 * 3)  # noise, so that base64 is longer than a reference
    Image.frombytes("RGB", (16, 16), noise).save(stored, "PNG")
    return stored.getvalue()


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "good.png").write_bytes(picture())
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"this is no picture")
    (folder / "cut.png").write_bytes(picture()[:-40])
    (folder / "bomb.png").write_bytes(_bomb())
    (folder / "folder.png").mkdir(exist_ok=True)
    (folder.parent / "outside.png").write_bytes(picture())


def _bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunk + end


ANSWER = (
    "<SUMMARY> Count. </SUMMARY>\n\n<CAPTION>A dog.</CAPTION> <REASONING>One.</REASONING>\n<CONCLUSION>1</CONCLUSION>"
)


def conversation(number: int | str, answer: str = ANSWER, **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "How many dogs?"}, {"from": "gpt", "value": answer}]
    record = {"id": f"c{number}", "image": "good.png", "conversations": turns, **changes}
    return {key: value for key, value in record.items() if value is not ...}


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def vqa(number: int | str, **changes: Any) -> dict[str, Any]:
    record = {"id": f"v{number}", "image": "good.png", "question": "Which?", "answer": "red", **changes}
    return {key: value for key, value in record.items() if value is not ...}


def _of(make: Callable[..., dict[str, Any]], **changes: Any) -> Make:
    return lambda number: dump(make(number, **changes))


BROKEN_JSON: dict[str, tuple[str, Make]] = {
    "broken json": ("bad-json", lambda n: b'{"id": "%d", "image": }' % n),
    "truncated json": ("bad-json", lambda n: dump(conversation(n))[: -1 - n % 60]),
    "two objects on a line": ("bad-json", lambda n: dump(vqa(n)) + dump(vqa(f"{n}b"))),
    "bare word": ("bad-json", lambda n: b"oops"),
    "single quotes": ("bad-json", lambda n: str(vqa(n)).encode()),
    "nested too deeply": ("bad-json", lambda n: b"[" * 60_000 + b"]" * 60_000),
    "integer of 5,000 digits": ("bad-json", lambda n: b'{"id": ' + b"9" * 5000 + b"}"),
    "a list": ("not-an-object", lambda n: dump([vqa(n)])),
    "a number": ("not-an-object", lambda n: b"%d" % n),
    "null": ("not-an-object", lambda n: b"null"),
    "NaN": ("not-a-number", lambda n: b'{"id": "%d", "question": NaN}' % n),
    "Infinity": ("not-a-number", lambda n: b'{"id": "%d", "tolerance": -Infinity}' % n),
    "invalid UTF-8": ("not-utf8", lambda n: dump(vqa(n))[:-1] + b', "category": "\xff\xfe"}'),
    "Latin-1": ("not-utf8", lambda n: '{"id": "%d", "question": "café?"}'.encode("latin-1")),
    "NUL byte": ("nul-byte", lambda n: dump(vqa(n))[:-1] + b"\0}"),
    "BOM in mid-file": ("byte-order-mark", lambda n: b"\xef\xbb\xbf" + dump(vqa(n))),
    "huge line": ("line-too-long", lambda n: dump(vqa(n, question="x" * MAX_LINE * (1 + n % 3)))),
    "key given twice": ("repeated-key", lambda n: dump(vqa(n))[:-1] + b', "id": "again"}'),
}

CONVERSATIONS: dict[str, tuple[str, Make]] = {
    **BROKEN_JSON,
    "empty object": ("missing-field", lambda n: b"{}"),
    "no id": ("missing-field", _of(conversation, id=...)),
    "id is a list": ("wrong-type", _of(conversation, id=["a"])),
    "no conversations": ("missing-field", _of(conversation, conversations=...)),
    "conversations are text": ("wrong-type", _of(conversation, conversations="human: hi")),
    "no turns": ("missing-turn", _of(conversation, conversations=[])),
    "turns are lists": ("wrong-type", _of(conversation, conversations=[["human", "hi"], ["gpt", "ho"]])),
    "gpt speaks first": ("turn-order", lambda n: dump(reversed_turns(n))),
    "question is null": ("missing-field", _of(conversation, conversations=[{"from": "human", "value": None}] * 2)),
    "question is a number": ("wrong-type", _of(conversation, conversations=[{"from": "human", "value": 3}] * 2)),
    "question is blank": ("empty-field", _of(conversation, conversations=[{"from": "human", "value": " \n"}] * 2)),
    "escaped NUL": ("nul-byte", lambda n: dump(conversation(n)).replace(b"How many", b"How\\u0000many")),
    "lone surrogate": ("not-utf8", lambda n: dump(conversation(n)).replace(b"How many", b"How \\ud800 many")),
    "tag missing": ("missing-tag", lambda n: dump(conversation(n, ANSWER.replace("<CAPTION>", "")))),
    "no tags at all": ("missing-tag", lambda n: dump(conversation(n, "There is 1 dog."))),
    "tag repeated": ("repeated-tag", lambda n: dump(conversation(n, ANSWER + ANSWER))),
    "tags out of order": ("tag-order", lambda n: dump(conversation(n, swapped_stages()))),
    "tag unclosed": ("unclosed-tag", lambda n: dump(conversation(n, ANSWER.replace("</REASONING>", "")))),
    "text outside of tags": ("text-outside-tags", lambda n: dump(conversation(n, ANSWER + " So there."))),
    "empty conclusion": ("empty-stage", lambda n: dump(conversation(n, ANSWER.replace(">1<", "> <")))),
    "path escapes": ("path-escape", _of(conversation, image="../outside.png")),
    "path to etc": ("path-escape", _of(conversation, image="../../../../../../etc/passwd")),
    "absolute path": ("path-escape", _of(conversation, image="/etc/passwd")),
    "image absent": ("image-missing", _of(conversation, image="nowhere.png")),
    "image is a folder": ("image-missing", _of(conversation, image="folder.png")),
    "image name too long": ("image-missing", _of(conversation, image="x" * 5000)),
    "image has zero bytes": ("empty-image", _of(conversation, image="zero.png")),
    "image is text": ("not-an-image", _of(conversation, image="text.png")),
    "image cut off": ("broken-image", _of(conversation, image="cut.png")),
    "image is a bomb": ("image-too-large", _of(conversation, image="bomb.png")),
    "image on the web": ("remote-image", _of(conversation, image="https://example.org/a.png")),
    "image is a number": ("wrong-type", _of(conversation, image=7)),
    "id taken": ("duplicate-id", lambda n: dump(conversation("good-first"))),
}

QUESTIONS: dict[str, tuple[str, Make]] = {
    **{name: BROKEN_JSON[name] for name in ("truncated json", "NaN", "invalid UTF-8", "null")},
    "no question": ("missing-field", _of(vqa, question=...)),
    "question is a list": ("wrong-type", _of(vqa, question=["Which?"])),
    "no answer": ("missing-field", _of(vqa, answer=...)),
    "answer is null": ("missing-field", _of(vqa, answer=None)),
    "no answers in the list": ("missing-field", _of(vqa, answer=[])),
    "answer is a nested list": ("wrong-type", _of(vqa, answer=[["red"], ["blue"]])),
    "answer is an object": ("missing-field", _of(vqa, answer={"text": "red"})),
    "answer not among options": ("answer-not-in-options", _of(vqa, options=["green", "blue"])),
    "answer letter beyond options": ("answer-not-in-options", _of(vqa, options=["green", "blue"], answer="D")),
    "options are a number": ("wrong-type", _of(vqa, options=4)),
    "options are nested": ("wrong-type", _of(vqa, options=[["red"], ["blue"]])),
    "option keys are words": ("bad-options", _of(vqa, options={"first": "red", "second": "blue"})),
    "options are loose text": ("bad-options", _of(vqa, options="red or blue")),
    "an option is a picture": ("bad-options", _of(vqa, options=["red", "<image>"])),
    "question is a mark alone": ("empty-field", _of(vqa, question="<image>")),
    "30 options": ("bad-options", _of(vqa, options=[str(n) for n in range(30)])),
    "data URL without base64": ("bad-data-url", _of(vqa, image="data:image/png,abc")),
    "data URL of bad base64": ("bad-base64", _of(vqa, image="data:image/png;base64,%%%%")),
    "data URL of zero bytes": ("empty-image", _of(vqa, image="data:image/png;base64,")),
    "list of images, one absent": ("image-missing", _of(vqa, image=["good.png", "nowhere.png"])),
    "nested list of images": ("wrong-type", _of(vqa, image=[["good.png"]])),
    "NUL in a path": ("bad-path", _of(vqa, image="good\0.png")),
    "id taken": ("duplicate-id", lambda n: dump(vqa("good-first"))),
}

COLUMNS = ["id", "image", "question", "answer", "tolerance"]


def cells(number: int | str, **changes: str) -> list[str]:
    row = {"id": f"t{number}", "image": "good.png", "question": "Which, then?", "answer": "red", "tolerance": ""}
    return list({**row, **changes}.values())


def delimited(row: list[str], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="").writerow(row)
    return text.getvalue().encode()


def _row(**changes: str) -> Make:
    return lambda number: delimited(cells(number, **changes))


CSV: dict[str, tuple[str, Make]] = {
    "quote never closed": ("bad-quotes", lambda n: b't%d,good.png,"Which is it?,red,' % n),
    "quote closed too soon": ("bad-quotes", lambda n: b't%d,good.png,"Which" one?,red,' % n),
    "a bare quote": ("bad-quotes", lambda n: b't%d,good.png,Which 5" pipe?,red,' % n),
    "stray carriage return": ("bad-quotes", lambda n: b"t%d,good.png,Which\rone?,red," % n),
    "too many cells": ("column-count", lambda n: b"t%d,good.png,Which, then?,red," % n),
    "too few cells": ("column-count", lambda n: b"t%d,good.png" % n),
    "too few cells, over lines": ("column-count", lambda n: b't%d,"Which\n\none"' % n),
    "header again": ("repeated-header", lambda n: ",".join(COLUMNS).encode()),
    "CSV invalid UTF-8": ("not-utf8", lambda n: b"t%d,good.png,Which\xff?,red," % n),
    "CSV NUL byte": ("nul-byte", lambda n: b"t%d,good.png,Wh\0ich?,red," % n),
    "CSV BOM in mid-file": ("byte-order-mark", lambda n: b"\xef\xbb\xbf" + delimited(cells(n))),
    "CSV huge line": ("line-too-long", lambda n: delimited(cells(n, question="x" * MAX_LINE))),
    "empty question": ("empty-field", _row(question="")),
    "empty answer": ("missing-field", _row(answer=" ")),
    "CSV path escapes": ("path-escape", _row(image="images/../../outside.png")),
    "CSV image absent": ("image-missing", _row(image="nowhere.png")),
    "CSV id taken": ("duplicate-id", lambda n: delimited(cells("good-first"))),
}

TSV_COLUMNS = ["index", "image", "question", "hint", "A", "B", "answer"]


def choice(number: int | str, **changes: str) -> bytes:
    image = base64.b64encode(picture()).decode()
    row = {
        "index": f"m{number}",
        "image": image,
        "question": "Which?",
        "hint": "",
        "A": "red",
        "B": "blue",
        "answer": "A",
    }
    return delimited(list({**row, **changes}.values()), "\t")


TSV: dict[str, tuple[str, Make]] = {
    "wrong base64": ("bad-base64", lambda n: choice(n, image="!" * 99)),
    "base64 cut off": ("bad-base64", lambda n: choice(n, image=base64.b64encode(picture()).decode()[:-3])),
    "base64 of no image": ("not-an-image", lambda n: choice(n, image=base64.b64encode(b"text" * 40).decode())),
    "base64 of a cut image": ("broken-image", lambda n: choice(n, image=base64.b64encode(picture()[:-40]).decode())),
    "reference to no row": ("unknown-reference", lambda n: choice(n, image="99999")),
    "reference to itself": ("unknown-reference", lambda n: choice(n, image=f"m{n}")),
    "no picture": ("no-image", lambda n: choice(n, image="")),
    "TSV empty index": ("empty-field", lambda n: choice("", index="nan")),
    "TSV empty question": ("empty-field", lambda n: choice(n, question=" ")),
    "TSV question is a mark alone": ("empty-field", lambda n: choice(n, question="<image>")),
    "TSV option is a picture": ("bad-options", lambda n: choice(n, B="<image>")),
    "TSV mark without a picture": ("mark-without-image", lambda n: choice(n, question="<image> Which? <image>")),
    "TSV no answer": ("no-answer", lambda n: choice(n, answer="")),
    "TSV answer not among options": ("answer-not-in-options", lambda n: choice(n, answer="C")),
    "TSV too few cells": ("column-count", lambda n: choice(n).replace(b"\t", b" ", 2)),
    "TSV too many cells": ("column-count", lambda n: choice(n) + b"\textra"),
    "TSV quote never closed": ("bad-quotes", lambda n: choice(n).replace(b"\tWhich?", b'\t"Which?')),
    "TSV invalid UTF-8": ("not-utf8", lambda n: choice(n).replace(b"Which", b"Wh\xe9ch")),
    "TSV NUL byte": ("nul-byte", lambda n: choice(n).replace(b"Which", b"Wh\0ch")),
    "TSV huge line": ("line-too-long", lambda n: choice(n, image="A" * MAX_LINE)),
    "TSV id taken": ("duplicate-id", lambda n: choice("good-first")),
}


def reversed_turns(number: int) -> dict[str, Any]:
    record = conversation(number)
    return {**record, "conversations": record["conversations"][::-1]}


def swapped_stages() -> str:
    summary, rest = ANSWER.split("\n\n")
    return f"{rest} {summary}"


def write_all(folder: Path, total: int = 1000) -> list[Damaged]:
    """Four files with ``total`` damaged rows, as many good ones between them, and their pictures."""
    write_pictures(folder)
    shares = [total * 4 // 10, total * 2 // 10, total * 2 // 10]
    shares.append(total - sum(shares))
    return [
        _write(folder / "train.jsonl", b"", CONVERSATIONS, lambda n: dump(conversation(n)), "c", shares[0]),
        _write(folder / "vqa.jsonl", b"", QUESTIONS, lambda n: dump(vqa(n)), "v", shares[1]),
        _write(folder / "table.csv", ",".join(COLUMNS).encode(), CSV, _good_cells, "t", shares[2]),
        _write(folder / "bench.tsv", "\t".join(TSV_COLUMNS).encode(), TSV, choice, "m", shares[3]),
    ]


def _good_cells(number: str) -> bytes:
    """Some with a line break, a comma and quotes inside."""
    return delimited(cells(number, question='Which,\nthe "red",\nor?') if number[-1] in "37" else cells(number))


def _write(
    path: Path,
    header: bytes,
    damages: dict[str, tuple[str, Make]],
    good: Callable[[str], bytes],
    prefix: str,
    count: int,
) -> Damaged:
    made = Damaged(path, kinds=set(damages))
    rng = random.Random(path.name)
    names = [list(damages)[n % len(damages)] for n in range(count)]
    rng.shuffle(names)
    data, line = bytearray(), 1

    def add(row: bytes) -> int:
        nonlocal line
        at = line
        ending = rng.choice([b"\n", b"\r\n"])
        data.extend(row + ending)
        line += row.count(b"\n") + 1
        return at

    if header:
        add(header)
    made.good.append((add(good("good-first")), f"{prefix}good-first"))
    for number, name in enumerate(names):
        problem, make = damages[name]
        made.problems.append((add(make(number)), problem))
        open_quote = "never closed" in name  # what is no whole row behind it could be the rest of its cell
        if open_quote or rng.random() < 0.8:  # now and then two damaged rows one behind the other
            made.good.append((add(good(f"good-{number}")), f"{prefix}good-{number}"))
    made.good.append((add(good("good-last")), f"{prefix}good-last"))
    path.write_bytes(bytes(data))
    return made
