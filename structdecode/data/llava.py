"""LLaVA-CoT-100k JSONL: a picture, a conversation, and answers in four tagged stages.

``{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value": "<SUMMARY>..."}]}``, as in
Xkev/LLaVA-CoT-100k. Of a conversation of many turns only the first question and answer are taken: later ones
lean on the turns before them, and a `Question` has no history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from structdecode.core import tags
from structdecode.core.problems import BadRow, kind_of, shown
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Schema
from structdecode.data.pictures import IMAGE_MARK, Pictures, check_image_marks, picture_cells
from structdecode.data.rows import Row, checked_text, plain_text, text_cell
from structdecode.matching.types import Question


def question_of(row: Row, file: str, pictures: Pictures) -> Question:
    """The question of a record; the reference answer is its CONCLUSION.

    Raises:
        BadRow: a field is missing or of the wrong type, the turns are out of order, the picture cannot be used,
            or a stage is missing, repeated, out of order, unclosed or empty.
    """
    cells = row.cells
    if cells.get("id") is None:
        raise BadRow("missing-field", "no 'id': add one")
    name = plain_text("id", cells["id"])
    human, gpt = _first_turns(cells)
    text = human.replace(IMAGE_MARK, "").strip()
    images = pictures.sources(picture_cells(cells))
    check_image_marks(_marks(cells["conversations"]), len(images))
    stages = read_stages(gpt, LLAVA_O1, with_image=bool(images))
    return Question(
        id=name,
        text=checked_text("the question", text),
        answers=(stages["CONCLUSION"],),
        images=images,
        stages=stages,
        source=f"{file}:{row.line}",
    )


def _first_turns(cells: Mapping[str, Any]) -> tuple[str, str]:
    turns = cells.get("conversations")
    if turns is None:
        raise BadRow("missing-field", "no 'conversations': add them")
    if not isinstance(turns, list):
        raise BadRow("wrong-type", f"conversations are {kind_of(turns)}, not a list")
    if len(turns) < 2:
        raise BadRow("missing-turn", f"{len(turns)} turns: a question (human) and an answer (gpt) are needed")
    texts = []
    for number, (turn, speaker) in enumerate(zip(turns, ("human", "gpt"), strict=False), start=1):
        if not isinstance(turn, dict):
            raise BadRow("wrong-type", f"turn {number} is {kind_of(turn)}, not an object")
        if turn.get("from") != speaker:
            raise BadRow(
                "turn-order", f"turn {number} is from {shown(turn.get('from'))}, not {speaker!r}: reorder them"
            )
        texts.append(text_cell(turn, "value"))
    return texts[0], texts[1]


def _marks(turns: list[Any]) -> int:
    """In the questions of all turns, as far as they can be read."""
    asked = (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "human")
    return sum(text.count(IMAGE_MARK) for text in asked if isinstance(text, str))


def read_stages(text: str, schema: Schema, *, with_image: bool) -> dict[str, str]:
    """The text of each stage, by name; where there is no picture a stage that needs one may be absent.

    Raises:
        BadRow: naming the first stage that is not as the schema has it.
    """
    needed = [s for s in schema.stages if with_image or not s.needs_image or s.begin in text or s.end in text]
    for stage in needed:
        if text.count(stage.begin) != 1:
            problem = "repeated-tag" if stage.begin in text else "missing-tag"
            raise BadRow(problem, f"{stage.begin} is there {text.count(stage.begin)} times: it has to be once")
        if stage.end not in text:
            raise BadRow("unclosed-tag", f"{stage.begin} has no {stage.end}: close it")
    places = [text.index(tag) for stage in needed for tag in (stage.begin, stage.end)]
    if places != sorted(places):
        raise BadRow("tag-order", f"stages overlap or are not in the order {', '.join(s.name for s in needed)}")
    spans = tags.parse(Schema(schema.name, tuple(needed)), text)
    for span in spans:
        if span.finish_reason == "invalid":
            raise BadRow("text-outside-tags", f"text beside the tags of {span.stage}: move it into a stage")
        if not span.text:
            raise BadRow("empty-stage", f"{span.stage} is empty: fill it in")
    return {span.stage: span.text for span in spans}
