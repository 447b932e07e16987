"""VLMEvalKit TSV, as MMStar, MMBench, MMVet, MathVista, AI2D and HallusionBench are distributed.

Columns and prompts follow open-compass/VLMEvalKit, `vlmeval/dataset/image_base.py`, `image_mcq.py`, `image_yorn.py`,
`image_vqa.py`: ``index, question, answer`` and ``image`` (base64, a list of them, or the index of the row that has the
picture) or ``image_path``; ``hint``, ``A`` ... ``Z``, ``category``, ``l2-category``, ``split``. Rows without a picture
are left out, as VLMEvalKit does.

Three differences, on purpose: pictures stand before the text, so `IMAGE_MARK` is taken out of it; an option "None" or "NA" stays (pandas, through which VLMEvalKit reads, takes it for an
empty cell), and each of MMBench's rotated copies is a question of its own (VLMEvalKit asks that all be right).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.images import ImageSource
from structdecode.core.problems import BadRow, Rejected, shown
from structdecode.data.files import table_rows
from structdecode.data.options import LETTERS, chosen, listed, options_of, with_options
from structdecode.data.pictures import IMAGE_MARK, Pictures, check_image, check_image_marks, from_base64
from structdecode.data.rows import Row, without_marks
from structdecode.matching.types import Kind, Question

REFERENCE_LENGTH = 64
"""An image cell of at most this many characters is the index of another row (`ImageBaseDataset.__init__`)."""

_SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
_SUFFIXES = {
    "OCRVQA": _SHORT_ANSWER, "TextVQA": _SHORT_ANSWER, "DocVQA": _SHORT_ANSWER, "InfoVQA": _SHORT_ANSWER,
    "ChartQA": _SHORT_ANSWER, "GQA": _SHORT_ANSWER, "AMBER": "\nPlease answer yes or no.",
}  # fmt: skip
"""What VLMEvalKit adds to the questions of a data set, by the beginning of its file name."""

_CHARTQA_TOLERANCE = 0.05
"""Relaxed accuracy (`vlmeval/dataset/utils/vqa_eval.py`): a number is right within 5 %."""

_MATHVISTA_KINDS: dict[str, Kind] = {"integer": "number", "float": "number", "list": "set", "text": "text"}


@dataclass(frozen=True)
class Table:
    """A file with what its name and columns (``multiple_choice``: it has A and B) say of its rows."""

    path: Path
    multiple_choice: bool

    @property
    def suffix(self) -> str:
        return next((text for name, text in _SUFFIXES.items() if self.path.stem.startswith(name)), "")

    @property
    def zero_is_no(self) -> bool:
        """Whether answers 0 and 1 mean no and yes, as HallusionBench has them."""
        return "hallusion" in self.path.stem.lower()


@dataclass
class _Waiting:
    """A row whose pictures are known, refused, or (``reference``) another row's."""

    row: Row
    images: tuple[ImageSource, ...] = ()
    reference: str | None = None
    bad: BadRow | None = None


def read(path: Path, pictures: Pictures, split: str | None) -> tuple[Table, Iterator[Row | Rejected]]:
    """The table and its rows, in order. A row's cell ``image`` holds the decoded bytes (or paths), not base64.

    Raises:
        DataError: a column that is needed is not there.
        ConfigError: there is no split column to choose by.
    """
    columns, rows = table_rows(path, "\t")
    for name in ("index", "question", "answer"):
        if name not in columns:
            raise DataError(f"{path}: no column {name!r}: a VLMEvalKit TSV has index, question, answer and image")
    if "image" not in columns and "image_path" not in columns:
        raise DataError(f"{path}: no column 'image' or 'image_path': a VLMEvalKit TSV has one")
    if split is not None and "split" not in columns:
        raise ConfigError(f"{path}: has no column 'split' to choose {split!r} by: leave split out")
    return Table(path, {"A", "B"} <= set(columns)), _with_pictures(rows, pictures, split, str(path))


def _with_pictures(
    rows: Iterator[Row | Rejected], pictures: Pictures, split: str | None, file: str
) -> Iterator[Row | Rejected]:
    """Rows wait, in order, for the row that has their picture; what nobody has is known at the end of the file."""
    known: dict[str, tuple[ImageSource, ...]] = {}
    queue: deque[_Waiting | Rejected] = deque()
    for row in rows:
        if isinstance(row, Rejected):
            queue.append(row)
        else:
            waiting = _looked_at(row, pictures)
            if waiting.images:
                known.setdefault(row.cells["index"].strip(), waiting.images)
            if split is None or row.cells["split"].strip() == split:
                queue.append(waiting)
        while queue and _ready(queue[0], known):
            yield _outcome(queue.popleft(), known, file)
    while queue:
        yield _outcome(queue.popleft(), known, file)


def _ready(head: _Waiting | Rejected, known: Mapping[str, object]) -> bool:
    return isinstance(head, Rejected) or head.reference is None or head.reference in known


def _outcome(head: _Waiting | Rejected, known: dict[str, tuple[ImageSource, ...]], file: str) -> Row | Rejected:
    if isinstance(head, Rejected):
        return head
    if head.bad is not None:
        return head.bad.rejected(file, head.row.line)
    images = head.images if head.reference is None else known.get(head.reference)
    if images is None:
        message = f"image {shown(head.reference)}: neither base64 nor the index of a row with a picture: correct it"
        return BadRow("unknown-reference", message).rejected(file, head.row.line)
    known.setdefault(head.row.cells["index"].strip(), images)
    return Row(head.row.line, {**head.row.cells, "image": images})


def _looked_at(row: Row, pictures: Pictures) -> _Waiting:
    cell = _cell(row.cells, "image")
    slim = Row(row.line, {k: v for k, v in row.cells.items() if k != "image"})
    try:
        if cell and len(cell) <= REFERENCE_LENGTH and not cell.startswith("["):
            return _Waiting(slim, reference=cell)
        images = _decoded(cell, pictures) if cell else _files(_cell(row.cells, "image_path"), pictures)
        if not images:
            raise BadRow("no-image", "no picture: VLMEvalKit leaves such rows out too")
    except BadRow as bad:
        return _Waiting(slim, bad=bad)
    return _Waiting(slim, images)


def _decoded(cell: str, pictures: Pictures) -> tuple[ImageSource, ...]:
    """Of one base64 text or a list of them. Base64 has no quotes and commas, so a list needs no parser."""
    parts = [part.strip(" '\"\n\r") for part in cell[1:-1].split(",")] if cell[0] == "[" else [cell]
    images = [from_base64(part.partition(";base64,")[2] if part.startswith("data:") else part) for part in parts]
    for image in images if pictures.check else ():
        check_image(image)
    return tuple(images)


def _files(cell: str, pictures: Pictures) -> tuple[ImageSource, ...]:
    return pictures.sources(listed(cell) or cell)


def _cell(cells: Mapping[str, Any], *names: str) -> str:
    """The first of the cells that holds something; files that pandas wrote have "nan" in empty ones."""
    texts = (cells.get(name, "").strip() for name in names)
    return next((text for text in texts if text and text.lower() != "nan"), "")


def question_of(row: Row, table: Table) -> Question:
    """The question as VLMEvalKit asks it.

    Raises:
        BadRow: index, question or answer is empty, the answer is none of the options, or there are marks for more or
            fewer pictures than the row has.
    """
    texts = {name: row.cells[name] for name in ("question", "hint", *LETTERS) if name in row.cells}
    check_image_marks(sum(text.count(IMAGE_MARK) for text in texts.values()), len(row.cells["image"]))
    cells = {**row.cells, **{name: without_marks(texts[name]) for name in ("question", "hint") if name in texts}}
    for name, remedy in (("index", "number the rows"), ("question", "fill it in")):
        if not _cell(cells, name):
            raise BadRow("empty-field", f"{name} is empty: {remedy}")
    if not _cell(cells, "answer"):
        raise BadRow("no-answer", "no answer (test splits come without): take a split that has them")
    text, options, kind, answers = _asked(cells, table)
    return Question(
        id=cells["index"].strip(),
        text=text,
        answers=answers,
        images=cells["image"],
        options=options,
        kind=kind,
        tolerance=_CHARTQA_TOLERANCE if table.path.stem.startswith("ChartQA") else None,
        category=_cell(cells, "category", "task", "l2-category", "l2_category"),
        source=f"{table.path}:{row.line}",
    )


def _asked(cells: Mapping[str, Any], table: Table) -> tuple[str, dict[str, str], Kind | None, tuple[str, ...]]:
    """The text, the options, the kind and the accepted answers."""
    question, answer = cells["question"], _cell(cells, "answer")
    if table.multiple_choice:
        options = options_of({k: cells[k] for k in LETTERS if _cell(cells, k)})
        text = multiple_choice_prompt(question, options, _cell(cells, "hint"))
        if options:
            return text, options, "choice", (chosen(answer, options),)
        return text, {}, None, (answer,)
    if cells.get("question_type") == "multi_choice":  # MathVista: the question lists its choices
        options = options_of(_cell(cells, "choices"))
        letter = chosen(_cell(cells, "answer_option") or answer, options)
        return with_options(question, options), options, "choice", (letter,)
    text = question + table.suffix
    if "answer_type" in cells:
        kind = _MATHVISTA_KINDS.get(_cell(cells, "answer_type"))
        values = listed(answer) if kind == "set" else None
        return text, {}, kind, (", ".join(map(str, values)) if values else answer,)
    if answer.lower() in ("yes", "no"):
        return text, {}, "yes-no", (answer.lower(),)
    if table.zero_is_no and answer in ("0", "1"):
        return text, {}, "yes-no", ("yes" if answer == "1" else "no",)
    references = _references(answer)
    return (text, {}, None, references) if references else (text, {}, *_alternatives(answer))


def multiple_choice_prompt(question: str, options: Mapping[str, str], hint: str) -> str:
    """Word for word `ImageMCQDataset.build_prompt`, the blank before the last line break included."""
    lines = [f"Hint: {hint}\n"] if hint else []
    lines.append(f"Question: {question}\n")
    if options:
        lines.append("Options:\n")
        lines += [f"{letter}. {text}\n" for letter, text in options.items()]
        lines.append("Please select the correct answer from the options above. \n")
    return "".join(lines)


def _references(answer: str) -> tuple[str, ...]:
    """The texts of a list, as DocVQA, InfoVQA and TextVQA have them in one cell; ``[1, 2]`` is one answer."""
    values = listed(answer) or []
    if not all(isinstance(value, str) for value in values):
        return ()
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))


def _alternatives(answer: str) -> tuple[Kind | None, tuple[str, ...]]:
    """MM-Vet's ``<OR>`` parts accepted answers; ``<AND>`` parts what one answer has to hold all of: a set."""
    accepted = [part.strip() for part in answer.split("<OR>") if part.strip()]
    if "<AND>" not in answer:
        return None, tuple(dict.fromkeys(accepted)) or (answer,)
    parts = [[p.strip() for p in one.split("<AND>") if p.strip()] for one in accepted]
    if any("," in part for one in parts for part in one):  # a set is written with commas between its members
        return "text", tuple(" and ".join(one) for one in parts if one)
    return "set", tuple(", ".join(one) for one in parts if one) or (answer,)
