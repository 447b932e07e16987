"""Visual question answering in the plain forms that people write: JSONL, CSV, Parquet, with a folder of pictures.

One row is one question, with the fields of `ALIASES`; a letter option column ``A``, ``B``, ... will do for a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from structdecode.core.errors import DataError, MissingExtraError, UnknownNameError
from structdecode.core.problems import BadRow, Rejected, printable
from structdecode.data.options import (
    LETTERS,
    answers_of,
    chosen,
    kind_in,
    lists_options,
    options_of,
    tolerance_in,
    with_options,
)
from structdecode.data.pictures import IMAGE_MARK, Pictures, check_image_marks, picture_cells
from structdecode.data.rows import Row, checked_text, plain_text, text_cell, without_marks
from structdecode.matching.types import Question

T = TypeVar("T")

ALIASES: dict[str, tuple[str, ...]] = {
    "question": ("question",),
    "answer": ("answer", "answers"),
    "image": ("image", "images"),
    "id": ("id", "question_id", "index"),
    "options": ("options", "choices"),
    "category": ("category",),
    "kind": ("kind",),
    "tolerance": ("tolerance",),
    "split": ("split",),
}
"""Field -> the columns it is looked for in, in this order. ``columns={"question": "query"}`` names another one."""


class Columns:
    """Which column holds which field.

    Raises:
        UnknownNameError: ``columns`` names a field that there is not.
        DataError: a column that was named, or one for question or answer, is not in the table.
    """

    def __init__(self, file: str, present: list[str] | None, columns: Mapping[str, str] | None) -> None:
        """``present`` is None where each row has its own (JSONL): then a row without one is a bad row."""
        self.file, self.given = file, dict(columns or {})
        self._unused: dict[str, tuple[int, str]] = {}
        for field in self.given:
            if field not in ALIASES:
                raise UnknownNameError("column field", field, ALIASES)
        if present is None:
            return
        for field in ("question", "answer", *self.given):
            wanted = self.names(field)
            if not set(wanted) & set(present):
                names, there = " or ".join(map(repr, wanted)), printable(", ".join(filter(None, present)))[:300]
                raise DataError(f"{file}: no column {names} (there are: {there}): give columns={{'{field}': ...}}")

    def names(self, field: str) -> tuple[str, ...]:
        return (self.given[field],) if field in self.given else ALIASES[field]

    def get(self, cells: Mapping[str, Any], field: str) -> Any:
        """The value of a field; None where it is not there or is an empty text."""
        for name in self.names(field):
            value = cells.get(name)
            if value is not None and not (isinstance(value, str) and not value.strip()):
                return value
        return None

    def pictures(self, cells: Mapping[str, Any]) -> Any:
        """What names the row's pictures.

        Raises:
            BadRow: two columns name different ones, and none was named for the field.
        """
        return self.get(cells, "image") if "image" in self.given else picture_cells(cells)

    def read(self, row: Row, field: str, meaning: Callable[[Any], T]) -> T | None:
        """A field that no question needs. A column that happens to be called like it may hold anything.

        Raises:
            BadRow: the value is not what it should be, in a column that was named for the field.
        """
        value = self.get(row.cells, field)
        try:
            return None if value is None else meaning(value)
        except BadRow as bad:
            if field in self.given:
                raise
            rows, first = self._unused.get(field, (0, f"line {row.line}: {bad}"))
            self._unused[field] = rows + 1, first
            return None

    def notes(self) -> tuple[str, ...]:
        """Which columns `read` did not use, in how many rows and why, a line each."""
        return tuple(
            f"{self.file}: column {field!r} was not used in {rows} row{'s' * (rows > 1)} ({first}); rename the column if "
            "it means something else"
            for field, (rows, first) in self._unused.items()
        )


def question_of(row: Row, file: str, pictures: Pictures, columns: Columns) -> Question:
    """The question of a row. A row without an id is named for its line.

    A right option may be given by letter, by its text, or (a number that is no option's text) by place, from 0.

    Raises:
        BadRow: a field is missing or not what it should be, a picture cannot be used, or there are marks for more or
            fewer pictures than the row has.
    """
    cells = row.cells

    def value(field: str) -> Any:
        return columns.get(cells, field)

    key = columns.names("question")[0]
    asked = text_cell({key: cells.get(key)}, key)
    text = checked_text("the question", without_marks(asked)).strip()
    images = pictures.sources(columns.pictures(cells))
    options = options_of(value("options")) or _letter_columns(cells)
    beside = () if lists_options(text, options) else (value("options"), *map(cells.get, LETTERS))
    check_image_marks(sum(str(cell).count(IMAGE_MARK) for cell in (asked, *beside)), len(images))
    answer = value("answer")
    if answer is None:
        raise BadRow("missing-field", "no answer: add one, or leave the row out")
    if options:
        answers = tuple(dict.fromkeys(chosen(a, options) for a in (answer if isinstance(answer, list) else [answer])))
        if not answers:
            raise BadRow("missing-field", "the list of answers is empty: add one")
    else:
        answers = answers_of(answer)
    kind = columns.read(row, "kind", kind_in) or (
        "choice" if options else "yes-no" if isinstance(answer, bool) else None
    )
    return Question(
        id=f"row-{row.line}" if value("id") is None else plain_text("id", value("id")),
        text=with_options(text, options),
        answers=answers,
        images=images,
        options=options,
        kind=kind,
        tolerance=columns.read(row, "tolerance", tolerance_in),
        category=columns.read(row, "category", partial(plain_text, "category")) or "",
        source=f"{file}:{row.line}",
    )


def _letter_columns(cells: Mapping[str, Any]) -> dict[str, str]:
    found = {k: cells[k] for k in LETTERS if cells.get(k) is not None and str(cells[k]).strip()}
    return options_of(found) if "A" in found and len(found) > 1 else {}


def of_split(rows: Iterator[Row | Rejected], columns: Columns, split: str) -> Iterator[Row | Rejected]:
    """Rows of one split; a row that does not say of which it is, is of none."""
    return (row for row in rows if isinstance(row, Rejected) or columns.get(row.cells, "split") == split)


def parquet_rows(path: Path) -> tuple[list[str], Iterator[Row | Rejected]]:
    """The columns and the rows of a Parquet file, a small batch in memory at a time.

    Raises:
        DataError: the file is not there or not Parquet.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "eval") from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = list(table.schema_arrow.names)
    except Exception as error:  # a damaged file raises anything from OSError to UnicodeDecodeError
        raise DataError(f"{path}: cannot be read as Parquet ({printable(str(error))[:200]}): write it again") from None
    return names, _parquet_rows(table, path)


def _parquet_rows(table: Any, path: Path) -> Iterator[Row | Rejected]:
    number = 0
    try:
        for batch in table.iter_batches(batch_size=64):
            for at in range(batch.num_rows):
                number += 1
                yield _parquet_row(batch.slice(at, 1), number, path)
    except Exception as error:  # likewise
        message = f"the rest cannot be read ({str(error)[:200]}): write the file again"
        yield BadRow("broken-file", message).rejected(str(path), number + 1)


def _parquet_row(slice_: Any, number: int, path: Path) -> Row | Rejected:
    try:
        return Row(number, slice_.to_pylist()[0])
    except (ValueError, ArithmeticError) as error:  # a text that is no UTF-8, a date that Python does not know
        problem = "not-utf8" if isinstance(error, UnicodeDecodeError) else "wrong-type"
        return BadRow(problem, f"a cell cannot be read ({error}): write it again").rejected(str(path), number)
