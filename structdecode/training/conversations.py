"""Rows of a LLaVA-CoT style set as conversations: pairs of a question and a staged answer, pictures named but not opened.

``{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value": "<SUMMARY>..."}, ...]}``, as in
Xkev/LLaVA-CoT-100k. All pairs of a conversation are kept, unlike in `structdecode.data.llava`, which asks
only the first question. White space between tags is kept as it comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from structdecode.core.problems import BadRow, kind_of, shown
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Schema
from structdecode.data.llava import read_stages
from structdecode.data.pictures import IMAGE_MARK, check_image_marks, picture_cells
from structdecode.data.rows import Row, checked_text, plain_text, text_cell

NO_IMAGE, NO_FOLDER = "(no image)", "(no folder)"
"""Sources of rows that name none: without a picture, and with one that is in no folder."""

_PICTURE_MARK = re.compile(
    r"(?i:<(?:image|video)>|<\|\w{0,40}?(?:image|img|video|vision|media)\w{0,40}\|>|<\w{1,40}_image>"
    r"|<im(?:age|g)(?:_\w{1,40}|pad)>)|\[IMG(?:_\w{1,40})?\]"
)
"""What stands for a picture with one model or another: <image>, <|image|>, <|vision_start|>, <IMG_CONTEXT>, [IMG], ..."""

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A question and its answer.

    Attributes:
        answer: as it stands in the data, tags included, white space around it removed.
        stages: the answer's text by stage name; empty where the stages are not as the schema has them.
        marks: how many image marks were taken out of the question.
    """

    question: str
    answer: str
    stages: Mapping[str, str]
    marks: int


@dataclass(frozen=True)
class Conversation:
    """One row. ``images`` are the cells that name pictures, as they stand in the data."""

    id: str
    pairs: tuple[Pair, ...]
    images: tuple[Any, ...]
    source: str
    line: int

    def messages(self, schema: Schema = LLAVA_O1) -> list[dict[str, Any]]:
        """For a chat template: pictures first in the first user turn, the schema's instruction around each question."""
        messages: list[dict[str, Any]] = []
        for pair in self.pairs:
            question = schema.instruction.replace("{question}", pair.question)
            images = [] if messages else [{"type": "image"} for _ in self.images]
            messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": pair.answer}]})
        return messages


def conversation_of(row: Row, schema: Schema = LLAVA_O1) -> Conversation:
    """Raises `BadRow` with the first thing that is wrong."""
    conversation, problems = examine(row, schema)
    if problems or conversation is None:
        raise problems[0]
    return conversation


def examine(row: Row, schema: Schema = LLAVA_O1) -> tuple[Conversation | None, list[BadRow]]:
    """The conversation as far as it can be read, and all that is wrong with it but for its pictures.

    None where there are no turns that can be told apart.
    """
    problems: list[BadRow] = []
    name = _attempt(problems, partial(read_id, row.cells), "")
    turns = _attempt(problems, partial(read_turns, row.cells), list[str]())
    if not turns:
        return None, problems
    images = _attempt(problems, partial(picture_cells, row.cells), tuple[Any, ...]())
    marks = sum(human.count(IMAGE_MARK) for human in turns[::2])
    _attempt(problems, partial(check_image_marks, marks, len(images)), None)
    pairs = []
    for number, (human, gpt) in enumerate(zip(turns[::2], turns[1::2], strict=True), start=1):
        question = human.replace(IMAGE_MARK, "").strip()
        where = f"question {number}" if len(turns) > 2 else "the question"
        _attempt(problems, partial(read_text, where, question, _tags(schema)), "")
        where = f"answer {number}: " if len(turns) > 2 else ""
        stages = _attempt(problems, partial(read_answer, gpt, schema, with_image=bool(images)), dict[str, str](), where)
        pairs.append(Pair(question, gpt.strip(), stages, human.count(IMAGE_MARK)))
    return Conversation(name, tuple(pairs), images, source_of(row.cells, images), row.line), problems


def _attempt(problems: list[BadRow], read: Callable[[], T], default: T, where: str = "") -> T:
    try:
        return read()
    except BadRow as bad:
        problems.append(BadRow(bad.problem, f"{where}{bad}"))
        return default


def read_text(name: str, text: str, tags: Collection[str] = ()) -> str:
    """A question without its image marks, or an answer, as it is.

    Args:
        tags: of the schema; they are no picture marks, whatever they look like.

    Raises:
        BadRow: a tokenizer cannot read it, there is none, or it holds what stands for a picture.
    """
    marks = (found[0] for found in _PICTURE_MARK.finditer(checked_text(name, text)))
    mark = next((mark for mark in marks if mark not in tags), None)
    if mark is not None:
        raise BadRow("image-token-in-text", f"{name} holds {mark!r}, which stands for a picture: take it out")
    return text


def _tags(schema: Schema) -> set[str]:
    return {tag for stage in schema.stages for tag in (stage.begin, stage.end)}


def read_answer(answer: str, schema: Schema, *, with_image: bool) -> dict[str, str]:
    """`read_stages` of what `read_text` takes; the text of an open stage is the whole answer."""
    read_text("the answer", answer, _tags(schema))
    if schema.stages[0].begin:
        return read_stages(answer, schema, with_image=with_image)
    return {schema.stages[0].name: answer.strip()}


def read_id(cells: Mapping[str, Any]) -> str:
    """Raises `BadRow` where there is none, or it is neither text nor a number."""
    if cells.get("id") is None:
        raise BadRow("missing-field", "no 'id': add one")
    return plain_text("id", cells["id"])


def read_turns(cells: Mapping[str, Any]) -> list[str]:
    """Texts of the turns: human, gpt, human, gpt, ...

    Raises:
        BadRow: a turn is missing, not an object, empty, or not the speaker's whose turn it is.
    """
    turns = cells.get("conversations")
    if turns is None:
        raise BadRow("missing-field", "no 'conversations': add them")
    if not isinstance(turns, list):
        raise BadRow("wrong-type", f"conversations are {kind_of(turns)}, not a list")
    texts = []
    for number, turn in enumerate(turns, start=1):
        speaker = "human" if number % 2 else "gpt"
        if not isinstance(turn, dict):
            raise BadRow("wrong-type", f"turn {number} is {kind_of(turn)}, not an object")
        if turn.get("from") != speaker:
            raise BadRow(
                "turn-order", f"turn {number} is from {shown(turn.get('from'))}, not {speaker!r}: reorder them"
            )
        texts.append(text_cell(turn, "value"))
    if not texts or len(texts) % 2:
        missing = "a question (human) and an answer (gpt) are needed" if not texts else "the last has no answer (gpt)"
        raise BadRow("missing-turn", f"{len(texts)} turns: {missing}")
    return texts


def source_of(cells: Mapping[str, Any], images: Sequence[Any]) -> str:
    """Where a row came from: its field ``source``, else the first folder of its picture's path."""
    given = cells.get("source")
    if isinstance(given, str) and given.strip():
        return given.strip()
    if not images:
        return NO_IMAGE
    first = images[0]
    if not isinstance(first, str) or first.startswith(("data:", "http://", "https://")):
        return NO_FOLDER
    folders = [part for part in PurePosixPath(first).parts[:-1] if part not in ("/", ".", "..")]
    return folders[0] if folders else NO_FOLDER
