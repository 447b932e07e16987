"""Rows of text files, with the right line numbers, whatever the bytes are.

Files are read as bytes, one physical line at a time. A line that is too long, not UTF-8 or not of the format is a
`Rejected`; so is a CSV record with an unclosed quote, which does not take the rows behind it along.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from structdecode.core.errors import DataError
from structdecode.core.problems import BadRow, Rejected, shown
from structdecode.core.reading import open_regular
from structdecode.data.rows import Row, checked_text

MAX_LINE_BYTES = 1 << 28
"""256 MiB: beyond it a line is left out unread (a TSV row with many pictures has tens of MB)."""

MAX_RECORD_LINES = 1000
"""A quoted CSV field that runs on over more lines was never closed."""

MAX_RUN_ON = 1 << 20
"""Nor was one that runs on over more characters before its last line."""


@dataclass(frozen=True)
class Line:
    """A physical line, number from 1; ``text`` is None where it is too long. Bytes that are no UTF-8 are surrogates."""

    number: int
    text: str | None


def lines(path: Path) -> Iterator[Line]:
    """Raises `DataError` where the file cannot be opened."""
    try:
        with open_regular(path) as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES):
                number += 1
                whole = data.endswith(b"\n") or len(data) < MAX_LINE_BYTES
                if not whole:
                    while data and not data.endswith(b"\n"):
                        data = file.readline(MAX_LINE_BYTES)
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield Line(number, data.decode("utf-8", "surrogateescape") if whole else None)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def json_rows(path: Path) -> Iterator[Row | Rejected]:
    """The objects of a JSONL file. Blank lines are passed over; decimals come as `Decimal`, digits as written."""
    for line in lines(path):
        if line.text is not None and not line.text.strip():
            continue
        try:
            yield Row(line.number, _json_object(line.text))
        except BadRow as bad:
            yield bad.rejected(str(path), line.number)


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        raise BadRow("line-too-long", f"more than {MAX_LINE_BYTES:,} bytes without a line break: split it")
    checked_text("the line", text)
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError, InvalidOperation) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise BadRow("bad-json", f"not JSON ({reason}): write one whole object a line") from None
    if not isinstance(value, dict):
        raise BadRow("not-an-object", "a line has to be a JSON object: {...}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadRow("not-a-number", f"{name} is no JSON: write a finite number or null")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = str(_first_twice([key for key, _ in pairs]))
        raise BadRow("repeated-key", f"the key {shown(twice)} is there twice: remove one")
    return value


def _first_twice(names: Sequence[str]) -> str | None:
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None)


def table_rows(path: Path, delimiter: str) -> tuple[list[str], Iterator[Row | Rejected]]:
    """The columns and the rows of a CSV or TSV file, cells as text.

    Raises:
        DataError: the file cannot be opened, or its first line is no header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    reader = _TableReader(path, delimiter)
    return reader.header, reader.rows()


class _TableReader:
    def __init__(self, path: Path, delimiter: str) -> None:
        self.path, self.delimiter = path, delimiter
        self._source = lines(path)
        self._back: deque[Line] = deque()
        try:
            record = next(self._records(0))
            if isinstance(record, Rejected):
                raise DataError(f"{path}: no header in line {record.line}: {record.message}")
            names = [name.strip() for name in record[1]]  # an empty one is what pandas calls its index
            self.header = [name and checked_text("a column's name", name) for name in names]
        except StopIteration:
            raise DataError(f"{path}: the file is empty: its first line has to name the columns") from None
        except BadRow as bad:
            raise DataError(f"{path}: no header: {bad}") from None
        twice = _first_twice([name for name in names if name])
        if twice is not None:
            raise DataError(f"{path}: the column {shown(twice)} is there twice: rename one")

    def rows(self) -> Iterator[Row | Rejected]:
        for record in self._records(len(self.header)):
            if isinstance(record, Rejected):
                yield record
                continue
            number, cells = record
            try:
                for name, cell in zip(self.header, cells, strict=True):
                    if cell.strip():
                        checked_text(name, cell)
                if [cell.strip() for cell in cells] == self.header:
                    raise BadRow("repeated-header", "the header again (were files joined?): remove it")
            except BadRow as bad:
                yield bad.rejected(str(self.path), number)
                continue
            yield Row(number, dict(zip(self.header, cells, strict=True)))

    def _records(self, width: int) -> Iterator[tuple[int, list[str]] | Rejected]:
        """Records of ``width`` cells (0: of any), each with the number of its first line."""
        while (first := self._next()) is not None:
            taken = [first]
            if first.text is None:
                yield self._rejected(first.number, "line-too-long", f"more than {MAX_LINE_BYTES:,} bytes: split it")
                continue
            try:
                cells = next(csv.reader(self._feed(taken), delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                ended = "unexpected end" in str(error)
                lost = self._resume(taken, width, from_last=not ended)
                message = f"{_reason(error)}{lost}: quote the cell, double quotes in it"
                yield self._rejected(first.number, "bad-quotes", message)
                continue
            if not cells or (len(cells) == 1 != width and not cells[0].strip()):
                continue  # a blank line
            if width and len(cells) != width:
                lost = self._resume(taken, width, from_last=False)
                message = f"{len(cells)} cells under {width} columns{lost}: quote cells that hold the delimiter"
                yield self._rejected(first.number, "column-count", message)
                continue
            if sum((line.text or "").count('"') for line in taken) % 2:  # a bare one, or the rest of a broken record
                yield self._rejected(first.number, "bad-quotes", "an odd number of quotes: quote the cell, double them")
                continue
            yield first.number, cells

    def _feed(self, taken: list[Line]) -> Iterator[str]:
        """The first line, then what a quoted field may run on over; each line is added to ``taken``."""
        yield taken[0].text or ""
        run_on = 0
        while len(taken) < MAX_RECORD_LINES and run_on <= MAX_RUN_ON and (line := self._next()) is not None:
            if line.text is None:
                self._back.appendleft(line)
                return
            taken.append(line)
            run_on += len(line.text)
            yield line.text

    def _resume(self, taken: list[Line], width: int, *, from_last: bool) -> str:
        """Puts lines of a damaged record back, from the first that is a whole record by itself (or the last) on.

        Says how far the record goes where it takes more than its first line along.
        """
        end = len(taken)
        for at, line in enumerate(taken[1:], start=1):
            if self._whole(line.text or "", width) or (from_last and at == len(taken) - 1):
                self._back.extendleft(reversed(taken[at:]))
                end = at
                break
        return f" (lines {taken[0].number} to {taken[end - 1].number})" if end > 1 else ""

    def _whole(self, text: str, width: int) -> bool:
        try:
            cells = next(csv.reader([text], delimiter=self.delimiter, strict=True), [])
            return len(cells) == width and text.count('"') % 2 == 0
        except csv.Error:
            return False

    def _next(self) -> Line | None:
        return self._back.popleft() if self._back else next(self._source, None)

    def _rejected(self, number: int, problem: str, message: str) -> Rejected:
        return BadRow(problem, message).rejected(str(self.path), number)


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "a quote is never closed"
    return "a carriage return inside a cell" if "new-line" in text else "a quote is closed in mid-cell, or never"
