"""A run directory: what a comparison keeps on disk, how it is written so that a kill loses nothing, how it is read.

``study.json`` everything that is needed to repeat the run · ``questions.jsonl`` and ``rejected.jsonl`` the data ·
``records*.jsonl`` one `Record` a line, append-only · ``traces*.jsonl`` the search trees · ``pictures/`` small copies ·
``sessions.jsonl`` a line each time the run was started or resumed. Shards write ``records-I-of-N.jsonl``.

A record is written in one piece and fsynced before its question counts as done. A line that a kill has torn is the
last one of its file: readers pass over it, and the writer cuts it off before it resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from structdecode.core.errors import ConfigError
from structdecode.core.events import trace_problem
from structdecode.core.jsonl import as_lines, lines
from structdecode.core.problems import Rejected
from structdecode.core.reading import open_regular, parse_json, read_text
from structdecode.core.shapes import misfit
from structdecode.records.types import Record

FORMAT = "structdecode-study/1"


_KEY = b'{"key": "'
"""What a line of ``traces.jsonl`` begins with."""


class _Question(TypedDict):
    id: str
    text: NotRequired[str]
    answers: NotRequired[list[Any]]
    options: NotRequired[dict[str, Any]]
    stages: NotRequired[dict[str, Any]]


class _Cell(TypedDict):
    name: str
    resolved: NotRequired[Any]
    schema: dict[str, Any]
    budget: dict[str, Any]
    seed: int
    code: NotRequired[dict[str, Any]]
    width: NotRequired[int]
    independent: NotRequired[bool]
    baseline: NotRequired[bool]


class _Model(TypedDict):
    name: str
    digest: str
    dtype: NotRequired[str | None]
    device: NotRequired[str | None]


class _Data(TypedDict):
    source: NotRequired[str]
    digest: str
    questions: NotRequired[int]


class _Config(TypedDict):
    record_version: int
    model: _Model
    data: _Data
    cells: list[_Cell]


class _Study(TypedDict):
    config: _Config


class _Place(NamedTuple):
    path: Path
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"

    def line(self) -> bytes:
        with open_regular(self.path) as file:
            file.seek(self.offset)
            return file.readline()


@dataclass(frozen=True)
class Run:
    """A run directory as it is now, finished or not.

    Attributes:
        study: ``study.json``. cells: names, in the study's order.
        records: one for each finished question of each cell; in the order of cells, then ids, so that nothing
            depends on what finished first.
        rejected: rows that the data's loader left out.
        damaged_traces: what is wrong with a line of ``traces*.jsonl``, by file and line; of those that `trace` has seen.
    """

    directory: Path
    study: Mapping[str, Any]
    records: tuple[Record, ...]
    cells: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    damaged_traces: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def by_cell(self) -> dict[str, tuple[Record, ...]]:
        found: dict[str, list[Record]] = {name: [] for name in self.cells}
        for record in self.records:
            found[record.cell].append(record)
        return {name: tuple(records) for name, records in found.items()}

    @cached_property
    def questions(self) -> dict[str, dict[str, Any]]:
        """By id: ``text, answers, options, kind, category, stages, source``; in the data's order."""
        return {line["id"]: line for line in lines(self.directory / "questions.jsonl", _Question)}

    def picture(self, digest: str) -> Path | None:
        """A small PNG copy of a question's picture (digests are in the trace's ``images``), where there is one."""
        path = self.directory / "pictures" / f"{digest}.png"
        return path if path.is_file() else None

    def trace(self, key: str, problem_of: Callable[[Any], str | None] = trace_problem) -> dict[str, Any] | None:
        """The search tree of a record, in the form of `structdecode.core.trace.Trace.as_dict`; None where none
        was kept, or what was kept is damaged: ``damaged_traces`` has it then.

        Args:
            problem_of: what is wrong with parsed JSON, None where it will do.
        """
        place = self._traces.get(key)
        if place is None:
            return None
        try:
            found: dict[str, Any] = parse_json(place.line())["trace"]
            problem = problem_of(found)
        except KeyError:
            problem = "has no 'trace'"
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            self.damaged_traces[str(place)] = problem
            return None
        return found

    @cached_property
    def _traces(self) -> dict[str, _Place]:
        """Where each key's trace is."""
        places = {}
        for path in sorted(self.directory.glob("traces*.jsonl")):
            offset = 0
            with open_regular(path) as file:
                for number, raw in enumerate(file, start=1):
                    place = _Place(path, number, offset)
                    key, quote, _ = raw.removeprefix(_KEY).partition(b'"')
                    if not raw.endswith(b"\n"):
                        self.damaged_traces[str(place)] = "the last line is cut short"
                    elif raw.startswith(_KEY) and quote:
                        places[key.decode(errors="replace")] = place
                    else:
                        self.damaged_traces[str(place)] = "does not begin with a key"
                    offset += len(raw)
        return places


def read_run(directory: str | Path) -> Run:
    """Reads a run directory, all shards that write into it together.

    Raises:
        ConfigError: it is not one, or a line other than the last is damaged.
    """
    place = Path(directory)
    study = read_study(place)
    cells = tuple(cell["name"] for cell in study["config"]["cells"])
    order = {name: at for at, name in enumerate(cells)}
    records = [record for record in read_records(place).values() if record.cell in order]
    records.sort(key=lambda r: (order[r.cell], r.id, r.key))
    rejected = tuple(map(Rejected.from_dict, lines(place / "rejected.jsonl", Rejected)))
    return Run(place, study, tuple(records), cells, rejected)


def read_study(directory: Path) -> dict[str, Any]:
    """``study.json``.

    Raises:
        ConfigError: there is none, or it is something else.
    """
    path = directory / "study.json"
    try:
        found = parse_json(read_text(path))
    except OSError as error:
        raise ConfigError(f"{directory}: not a run directory: study.json: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f'{path}: not a study of this version: no "format": "{FORMAT}"')
    problem = misfit(found, _Study)
    if problem is not None:
        raise ConfigError(f"{path}: damaged: {problem}: run the study again with another --out")
    return found


def read_records(directory: Path) -> dict[str, Record]:
    """Records by key, of all shards; of a key that occurs twice the first."""
    found: dict[str, Record] = {}
    for path in sorted(directory.glob("records*.jsonl")):
        for line in lines(path, Record):
            found.setdefault(line["key"], Record.from_dict(line))
    return found


def rejected_lines(rejected: tuple[Rejected, ...]) -> str:
    return as_lines([asdict(row) for row in rejected])
