"""What there is to annotate: questions with standard answers, from several files, in one order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.problems import BadRow, Rejected, kind_of, shown
from structdecode.data import files, hub, vqa
from structdecode.data.pictures import IMAGE_MARK, Pictures, check_image_marks, picture_cells
from structdecode.data.rows import Row, checked_text, plain_text, text_cell
from structdecode.matching.types import Question
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.conversations import read_text

_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_OPTIONS = ("cap", "images", "name", "split", "hints", *(key for key in vqa.ALIASES if key != "split"))
_WITH_OPTIONS = re.compile(rf"(?P<path>.+?):(?P<options>(?:{'|'.join(_OPTIONS)})=.*)", re.DOTALL)
_CONCLUSION = re.compile(r"<CONCLUSION>(.*?)</CONCLUSION>", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """One question of a conversation.

    Attributes:
        question: with its standard answers. asked: the user's words as the training data will have them.
        hint: what the annotating model is told beside the standard answer.
    """

    question: Question
    asked: str
    hint: str = ""


@dataclass(frozen=True)
class Item:
    """A record to annotate.

    Attributes:
        picture: the file; digest: of its bytes. image: its name in the training data.
        file, line: where the record came from.
    """

    id: str
    turns: tuple[Turn, ...]
    file: str
    line: int
    picture: Path | None = None
    digest: str = ""
    image: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set to annotate, and how many of its records.

    Attributes:
        path: a .jsonl, .csv, .tsv or .parquet file, a folder that holds one, or one that ``save_to_disk`` wrote.
        cap: only the first N usable records. images: the folder that picture names are relative to.
        name: the folder of its pictures in the output. columns: field -> column, for tables (``hints`` is one, too).
    """

    path: Path
    cap: int | None = None
    images: Path | None = None
    name: str = ""
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Source:
        """Reads ``PATH`` or ``PATH:cap=5000,images=DIR,name=coco,split=train,question=COLUMN``.

        Raises:
            ConfigError: an option is unknown or its value cannot be used.
        """
        found = _WITH_OPTIONS.fullmatch(text)
        if found is None:
            return cls(Path(text)).named()
        given: dict[str, str] = {}
        for part in found["options"].split(","):
            key, equals, value = part.partition("=")
            if key not in _OPTIONS or not equals or not value:
                raise ConfigError(f"--source {text}: {part!r} is none of {', '.join(f'{o}=...' for o in _OPTIONS)}")
            given[key] = value
        cap = given.pop("cap", None)
        if cap is not None and not (cap.isdecimal() and int(cap) > 0):
            raise ConfigError(f"--source {text}: cap must be a whole number of at least 1, not {cap!r}")
        images = given.pop("images", None)
        return cls(
            Path(found["path"]), int(cap) if cap else None, Path(images) if images else None, given.pop("name", ""),
            given.pop("split", None), given,
        ).named()  # fmt: skip

    def named(self) -> Source:
        name = self.name or re.sub(r"[^\w+-]+", "-", self.path.stem).strip("-") or "data"
        if not re.fullmatch(r"[\w+-]+", name):
            raise ConfigError(f"source name {name!r}: only letters, digits, '-', '_' and '+': it names a folder")
        return replace(self, name=name)


def read(
    sources: Sequence[Source], store: ImageStore, note: Callable[[str], None] = lambda _: None
) -> list[Item | Rejected]:
    """All records of all sources, in this order, each with an id of its own; what cannot be used is in its place.

    An id that another source has, too, gets the source's name in front. ``note`` is told which columns were not used.

    Raises:
        DataError: a source as a whole cannot be read.
        ConfigError: an option does not fit a source.
    """
    entries: list[Item | Rejected] = []
    taken: set[str] = set()
    for source in _distinct(sources):
        own: dict[str, int] = {}
        count = 0
        columns, found = _entries(source, store)
        for entry in found:
            if isinstance(entry, Item):
                entry = _unique(entry, source, own, taken)
            entries.append(entry)
            count += isinstance(entry, Item)
            if count == source.cap:
                break
        for unused in columns.notes():
            note(unused)
        taken |= own.keys()
    return entries


def _unique(item: Item, source: Source, own: dict[str, int], taken: set[str]) -> Item | Rejected:
    if item.id in taken:
        item = replace(item, id=f"{source.name}/{item.id}")
    if item.id in own or item.id in taken:
        where = f"line {own[item.id]}'s" if item.id in own else "another source's"
        bad = BadRow("duplicate-id", f"id {shown(item.id)} is {where}: give it its own")
        return bad.rejected(item.file, item.line)
    own[item.id] = item.line
    return item


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """Sources with names of their own: a second ``train`` becomes ``train-2``."""
    names: set[str] = set()
    found = []
    for source in sources:
        name, number = source.name, 1
        while name in names:
            number += 1
            name = f"{source.name}-{number}"
        names.add(name)
        found.append(replace(source, name=name))
    return found


def _entries(source: Source, store: ImageStore) -> tuple[vqa.Columns, Iterator[Item | Rejected]]:
    path = _data_file(source.path)
    hints = source.columns.get("hints")
    given = {key: value for key, value in source.columns.items() if key != "hints"}
    present, rows = _rows(path, source.split)
    conversations = present is not None and "conversations" in present
    columns = vqa.Columns(str(path), None if conversations else present, given)
    if hints and present is not None and hints not in present:
        raise DataError(f"{path}: no column {hints!r} for hints: correct hints=")
    if source.split is not None and not path.is_dir():
        rows = vqa.of_split(iter(rows), columns, source.split)
    root = source.images or (None if path.is_dir() else path.parent)
    pictures = Pictures(root)
    make = partial(_item, source=source, file=str(path), pictures=pictures, columns=columns, hints=hints, store=store)
    return columns, (_made(row, make, str(path)) for row in rows)


def _made(row: Row | Rejected, make: Callable[[Row], Item], file: str) -> Item | Rejected:
    if isinstance(row, Rejected):
        return row
    try:
        return make(row)
    except BadRow as bad:
        return bad.rejected(file, row.line)


def _data_file(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: {'not a regular file or folder' if path.exists() else 'no such file or folder'}")
    if path.is_dir() and not hub.is_saved(path):
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
        if len(found) != 1:
            raise DataError(f"{path}: {len(found)} data files ({', '.join(_SUFFIXES)}): name the one")
        return found[0]
    if path.is_file() and path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{path}: unknown format {path.suffix!r}: known: {', '.join(_SUFFIXES)}")
    return path


def _rows(path: Path, split: str | None) -> tuple[list[str] | None, Iterable[Row | Rejected]]:
    """The columns (None: each row has its own) and the rows."""
    if path.is_dir():
        return hub.rows_of(str(path), split)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return vqa.parquet_rows(path)
    if suffix in (".csv", ".tsv"):
        return files.table_rows(path, "\t" if suffix == ".tsv" else ",")
    return None, files.json_rows(path)


# ------------------------------------------------------------------ one record


def _item(
    row: Row, source: Source, file: str, pictures: Pictures, columns: vqa.Columns, hints: str | None, store: ImageStore
) -> Item:
    cells = row.cells
    hint = _hint(cells, (hints,) if hints else ("hints", "hint"))
    if cells.get("conversations") is not None:
        name = cells.get("id")
        turns = _conversation(cells["conversations"], file, row.line, hint)
        images = pictures.sources(picture_cells(cells))
    else:
        question = vqa.question_of(row, file, pictures, columns)
        name = columns.get(cells, "id")
        turns, images = (Turn(replace(question, images=()), question.text, hint),), question.images
    for turn in turns:
        read_text("the question", turn.question.text)
    check_image_marks(sum(turn.asked.count(IMAGE_MARK) for turn in turns), len(images))
    if len(images) > 1:
        raise BadRow("several-images", f"{len(images)} pictures: LLaVA-CoT data have one a record")
    item_id = f"{source.name}-{row.line}" if name is None else plain_text("id", name)
    if not images:
        return Item(item_id, turns, file, row.line)
    place = store.place(images[0], source.name, pictures)
    return Item(item_id, turns, file, row.line, place.path, pictures.digest(images[0]), place.name)


def _conversation(turns: Any, file: str, line: int, hint: str) -> tuple[Turn, ...]:
    """Human and gpt in turn; what gpt says is the standard answer (its CONCLUSION, where it has stages already)."""
    if not isinstance(turns, list | tuple):
        raise BadRow("wrong-type", f"conversations are {kind_of(turns)}, not a list")
    if not turns or len(turns) % 2:
        raise BadRow("missing-turn", f"{len(turns)} turns: each question (human) needs its answer (gpt)")
    for number, turn in enumerate(turns, start=1):
        speaker = "human" if number % 2 else "gpt"
        if not isinstance(turn, Mapping):
            raise BadRow("wrong-type", f"turn {number} is {kind_of(turn)}, not an object")
        if turn.get("from") != speaker:
            raise BadRow(
                "turn-order", f"turn {number} is from {shown(turn.get('from'))}, not {speaker!r}: reorder them"
            )
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(_turn(human, gpt, f"{file}:{line}", hint) for human, gpt in pairs)


def _turn(human: Mapping[str, Any], gpt: Mapping[str, Any], where: str, hint: str) -> Turn:
    asked = text_cell(human, "value")
    text = asked.replace(IMAGE_MARK, "").strip()
    standard = text_cell(gpt, "value").strip()
    concluded = _CONCLUSION.search(standard)
    answer = concluded[1].strip() if concluded else standard
    own = [_hint(turn, ("hints", "hint")) for turn in (human, gpt)]
    return Turn(
        Question("", text, (checked_text("the answer", answer),), source=where), asked,
        "\n".join(filter(None, [hint, *own])),
    )  # fmt: skip


def _hint(cells: Mapping[str, Any], names: Sequence[str]) -> str:
    """A text or a list of texts; lines of one text."""
    value = next((cells[name] for name in names if cells.get(name) is not None), None)
    if value is None or value == "":
        return ""
    values = value if isinstance(value, list | tuple) else [value]
    return "\n".join(plain_text("a hint", each) for each in values if each is not None and each != "")
