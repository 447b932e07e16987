"""From the rows of any format to questions: what is wrong with one row is said and left out, the rest goes on.

A format is a stream of `Row` and `Rejected`, and a function that makes a `Question` of a row or raises `BadRow`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from structdecode.core.errors import DataError
from structdecode.core.problems import BadRow, Rejected, kind_of, printable, shown
from structdecode.data.pictures import IMAGE_MARK, Pictures
from structdecode.matching.types import Question


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        line: where it begins, from 1; of a table without lines (Parquet, Arrow) the number of the row.
    """

    line: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A data set.

    Attributes:
        questions: in the order of the file.
        rejected: rows that were left out, in the same order.
        digest: of all that the questions say, pictures by content; the same on every machine and under every path.
        name: for tables and titles.
        notes: what a user has to be told of the columns, a line each.
    """

    questions: tuple[Question, ...]
    rejected: tuple[Rejected, ...]
    digest: str
    name: str
    notes: tuple[str, ...] = ()


def collect(
    name: str,
    file: str,
    rows: Iterable[Row | Rejected],
    make: Callable[[Row], Question],
    pictures: Pictures,
    limit: int | None,
    cluster_by: str | None = None,
) -> Loaded:
    """Makes questions until there are ``limit`` of them; nothing behind the last one is read.

    Raises:
        DataError: no row has the column ``cluster_by``.
    """
    questions: list[Question] = []
    rejected: list[Rejected] = []
    lines: dict[str, int] = {}
    digest = blake2b(digest_size=16)
    columns: set[str] = set()
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        columns.update(row.cells)
        try:
            question = _in_cluster(make(row), row, cluster_by)
            if question.id in lines:
                raise BadRow("duplicate-id", f"id {shown(question.id)} is line {lines[question.id]}'s: give it its own")
        except BadRow as bad:
            rejected.append(bad.rejected(file, row.line))
            continue
        lines[question.id] = row.line
        questions.append(question)
        digest.update(_content(question, pictures))
        if len(questions) == limit:
            break
    if cluster_by is not None and columns and cluster_by not in columns:
        there = printable(", ".join(sorted(filter(None, columns))))[:300]
        raise DataError(f"{file}: no column {cluster_by!r} to cluster by: give one of {there}")
    return Loaded(tuple(questions), tuple(rejected), digest.hexdigest(), name)


def _in_cluster(question: Question, row: Row, cluster_by: str | None) -> Question:
    if cluster_by is None:
        return question
    value = row.cells.get(cluster_by)
    if value is None or value == "":
        raise BadRow("missing-field", f"no {cluster_by!r}, which the questions are clustered by: fill it in")
    return replace(question, cluster=plain_text(cluster_by, value))


def _content(question: Question, pictures: Pictures) -> bytes:
    """All of a question but where it came from, a line of JSON."""
    content = [
        question.id, question.text, question.answers, [pictures.digest(source) for source in question.images],
        dict(question.options), question.kind, question.tolerance, question.category, dict(question.stages),
    ]  # fmt: skip
    return json.dumps(content).encode() + b"\n"


def checked_text(name: str, text: str) -> str:
    """The text as it is, if a tokenizer can read it and there is any."""
    if "\0" in text:
        raise BadRow("nul-byte", f"{name} holds a NUL character: remove it")
    if "\ufeff" in text:
        raise BadRow("byte-order-mark", f"{name} holds a byte-order mark (were files joined?): remove it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRow("not-utf8", f"{name} is not UTF-8: save the file as UTF-8") from None
    if not text.strip():
        raise BadRow("empty-field", f"{name} is empty: fill it in")
    return text


def without_marks(text: str) -> str:
    """A text that may say where pictures go, without saying so; another one as it is."""
    return " ".join(part.strip() for part in text.split(IMAGE_MARK)).strip() if IMAGE_MARK in text else text


def text_cell(cells: Mapping[str, Any], name: str) -> str:
    """A text that has to be there."""
    if cells.get(name) is None:
        raise BadRow("missing-field", f"no {name!r}: add it")
    value = cells[name]
    if not isinstance(value, str):
        raise BadRow("wrong-type", f"{name} is {kind_of(value)}, not text: put it in quotes")
    return checked_text(name, value)


def plain_text(name: str, value: Any) -> str:
    """A text or a number, as text: ids, answers and options come as either."""
    if isinstance(value, str):
        return checked_text(name, value).strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise BadRow("wrong-type", f"{name} is {kind_of(value)}, not text or a number")
    if not isinstance(value, int) and not math.isfinite(value):
        raise BadRow("not-a-number", f"{name} is {value}: write a finite number, or leave the row out")
    try:
        return str(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        raise BadRow("wrong-type", f"{name} is an integer of thousands of digits: write it as text") from None
