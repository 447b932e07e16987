"""What a section of the report is made of: words, tables and figures, each known once and shown three ways.

Markdown for a repository (a block's `markdown`), HTML for a browser (its `template`, which gets it as ``block``), and
plain figures for ``tables.json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar, Protocol

from markupsafe import Markup

from structdecode.evaluation.statistics import FEW, Estimate


class Block(Protocol):
    template: ClassVar[str]

    def markdown(self) -> str: ...


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    template: ClassVar[str] = "paragraph.html"
    text: str

    def markdown(self) -> str:
        return _inert(self.text)


@dataclass(frozen=True)
class BulletList:
    """A list of plain sentences; ``folded`` under a heading where it is long."""

    template: ClassVar[str] = "bullets.html"
    items: tuple[str, ...]
    folded: str = ""

    def markdown(self) -> str:
        lines = "\n".join(f"- {_inert(item)}" for item in self.items)
        return f"{_inert(self.folded)}:\n\n{lines}" if self.folded else lines


@dataclass(frozen=True)
class Column:
    """``key`` of a row's figure, and how it is shown. Text columns are aligned left."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    text: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of plain figures; ``name`` is its key in ``tables.json``.

    Attributes:
        filtered: whether the page has a box above it that leaves only the rows with a text.
        repeatable: whether a repeated run gives the same rows; only then they are in ``tables.json``.
        most: rows that the page and the Markdown show, the first ones, with a word of how many there are.
    """

    template: ClassVar[str] = "table.html"
    name: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    filtered: bool = False
    repeatable: bool = True
    most: int | None = None

    @property
    def shown(self) -> tuple[Mapping[str, Any], ...]:
        return self.rows[: self.most]

    @property
    def note(self) -> str:
        """What is not shown; empty where all is."""
        if len(self.shown) == len(self.rows):
            return ""
        return f"The first {len(self.shown)} of {len(self.rows)} rows; all of them are in tables.json, {self.name}."

    def markdown(self) -> str:
        lines = [
            "| " + " | ".join(_inert(column.title) for column in self.columns) + " |",
            "| " + " | ".join("---" if column.text else "---:" for column in self.columns) + " |",
        ]
        for row in self.shown:
            cells = (column.show(row[column.key]) for column in self.columns)
            lines.append("| " + " | ".join(_inert(cell).replace("|", "\\|") for cell in cells) + " |")
        return "\n".join([*lines, *(["", _inert(self.note)] if self.note else [])])

    def plain(self) -> list[dict[str, Any]]:
        return [{str(key): plain(value) for key, value in row.items()} for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """An SVG, also written as ``figures/NAME.svg``. ``text``: what it shows, for those who cannot see it."""

    template: ClassVar[str] = "figure.html"
    name: str
    svg: str
    text: str

    @property
    def inline(self) -> Markup:
        from structdecode.evaluation.report.figures import inline

        return Markup(inline(self.svg))

    def markdown(self) -> str:
        short = _inert(self.text.partition(". ")[0])
        return f"![{short}](figures/{self.name}.svg)\n\n*{_inert(self.text)}*"


@dataclass(frozen=True)
class Preformatted:
    """A text as it is, folded under a heading in the page; ``markdown`` says in its place where else it is."""

    template: ClassVar[str] = "preformatted.html"
    folded: str
    text: str
    elsewhere: str

    def markdown(self) -> str:
        return self.elsewhere


@dataclass(frozen=True)
class Section:
    """One heading of the report. ``id`` is its anchor and its key in ``tables.json``."""

    id: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Figure))

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Figures by table, of those that are the same when the run is repeated."""
        return {b.name: b.plain() for b in self.blocks if isinstance(b, Table) and b.repeatable}

    @property
    def machine_tables(self) -> dict[str, list[dict[str, Any]]]:
        """The others."""
        return {b.name: b.plain() for b in self.blocks if isinstance(b, Table) and not b.repeatable}

    def markdown(self) -> str:
        return "\n\n".join([f"## {self.title}", *(block.markdown() for block in self.blocks)])


# ------------------------------------------------------------------ how figures are shown


def percent(value: Estimate) -> str:
    """A share with its standard error, in percent."""
    return "-" if math.isnan(value.value) else f"{100 * value.value:.1f}{_sure(value, 100, 1)}"


def points(value: Estimate | None) -> str:
    """A difference of shares with its standard error, in percentage points."""
    return "-" if value is None or math.isnan(value.value) else f"{100 * value.value:+.1f}{_sure(value, 100, 1)}"


def interval(value: Estimate | None) -> str:
    """The 95 % interval of a share or of a difference, in percent."""
    return "-" if value is None or math.isnan(value.low) else f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def share(value: Estimate) -> str:
    """A figure between 0 and 1 with its standard error."""
    return "-" if math.isnan(value.value) else f"{value.value:.3f}{_sure(value, 1, 3)}"


def amount(value: Estimate | float | None) -> str:
    """A count, or a mean with its standard error; large ones in powers of ten."""
    if isinstance(value, Estimate):
        if math.isnan(value.error) or value.error == 0 or value.groups < FEW:
            return amount(value.value)
        if value.value >= LARGE:
            return f"{value.value:.2e} ± {value.error:.0e}"
        digits = 0 if value.value >= 100 else 1
        return f"{value.value:,.{digits}f}{_error(value.error, digits if value.error >= 0.5 else 1)}"
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.2e}" if abs(value) >= LARGE else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


LARGE = 1e7
"""From here on amounts are shown in powers of ten."""


def p_value(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def text(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)


def plain(value: Any) -> Any:
    """JSON-ready; figures to nine digits, so that the last bits of a machine's arithmetic do not show."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def _sure(value: Estimate, scale: float, digits: int) -> str:
    """± of a figure; how few questions it is from, where they are too few; its interval where nothing varied."""
    if value.groups < FEW:
        return f" (of {value.groups} only)"
    if value.error > 0:
        return _error(scale * value.error, digits)
    known = not math.isnan(value.low)
    return f" ({scale * value.low:.{digits}f} to {scale * value.high:.{digits}f})" if known else " (± unknown)"


def _error(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f" ± {value:.{digits}f}"


def _inert(words: str) -> str:
    """Text that Markdown takes for text: on one line, with nothing in it that opens a tag or an emphasis."""
    words = (
        " ".join(words.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return "".join(f"\\{c}" if c in "*_`[]" else c for c in words)
