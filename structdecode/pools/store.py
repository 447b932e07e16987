"""A pool's directory: how recorded searches are kept so that a kill loses nothing, and how they are read.

``pool.json`` whose searches these are: the model by name and digest, and what its work costs · ``searches*.jsonl`` a
line a search (`structdecode.pools.tape`), append-only; shards write ``searches-I-of-N.jsonl`` · ``hidden/`` hidden states of a line's
rows as safetensors, named by the digest in the line's ``hidden``.

A line is written in one piece and fsynced, its hidden states before it. A line that a kill has torn is the last one of its file:
readers pass over it, and the next writer cuts it off. The same search may be there twice: its rows are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from structdecode.core.errors import ConfigError
from structdecode.core.flops import ModelCost
from structdecode.core.jsonl import Appender, lines, write_new
from structdecode.core.paths import naming
from structdecode.core.reading import open_regular, parse_json, read_text
from structdecode.core.shapes import misfit
from structdecode.core.types import FinishReason
from structdecode.pools.tape import Tape, as_dict, from_dict

if TYPE_CHECKING:
    import pandas

FORMAT = "structdecode-pool/1"
_PROMPT = b'{"prompt": "'
"""What a line of ``searches.jsonl`` begins with."""
_BESIDE = ("run", ".gitignore", ".DS_Store")
"""What may be in a folder that becomes a pool: `structdecode record` keeps its run there."""


class _Model(TypedDict):
    name: str
    digest: str
    dtype: NotRequired[str | None]
    device: NotRequired[str | None]
    engine: NotRequired[str | None]


class _Header(TypedDict):
    model: _Model
    cost: NotRequired[ModelCost | None]


class _Span(TypedDict):
    stage: str
    text: str
    token_ids: NotRequired[list[int]]
    prefix_ids: NotRequired[list[int]]
    suffix_ids: NotRequired[list[int]]
    finish_reason: NotRequired[FinishReason]
    raw: NotRequired[str]
    closed: NotRequired[bool]
    overshoot: NotRequired[str]
    pending: NotRequired[str]
    lead: NotRequired[str]
    seed: NotRequired[int | None]


class _Row(TypedDict):
    key: str
    prompt: str
    path: list[int]
    max_tokens: int
    drawn: int
    cut: bool
    layers: list[int]
    span: _Span


class _Tokens(TypedDict):
    ids: list[int]
    text_from: int
    shares: bool
    pictures_apart: bool


class _Line(TypedDict):
    prompt: str
    resolution: float
    question: str
    cell: str
    prompts: dict[str, _Tokens]
    rows: list[_Row]
    texts: dict[str, Any]
    hidden: NotRequired[str]


@dataclass(frozen=True)
class Pool:
    """Recorded searches of one model, as they are on the disk now.

    Attributes:
        model: ``name``, ``digest``, ``dtype``, ``device`` and ``engine`` of what wrote them.
        cost: what its tokens and pictures cost, where that is known.
    """

    directory: Path
    model: Mapping[str, Any]
    cost: ModelCost | None

    @classmethod
    def open(cls, directory: str | Path) -> Pool:
        """Reads a pool's directory.

        Raises:
            ConfigError: it is none, or is damaged.
        """
        place = Path(directory)
        header = _header(place)
        cost = header.get("cost")
        return cls(place, header["model"], None if cost is None else ModelCost(**cost))

    def tapes(self, prompt: str) -> list[Tape]:
        """What was recorded of a prompt, by its key; none where it was never asked."""
        return [self._tape(*place) for place in self._places.get(prompt, ())]

    def searches(self) -> Iterator[Tape]:
        """All of them, file by file, in the order they ended."""
        for path in self._files:
            for number, line in enumerate(lines(path, _Line), start=1):
                yield self._read(path, number, line)

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._places

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    @property
    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("searches*.jsonl"))

    @cached_property
    def _places(self) -> dict[str, list[tuple[Path, int, int]]]:
        """File, line number and offset of the searches of each prompt."""
        found: dict[str, list[tuple[Path, int, int]]] = defaultdict(list)
        for path in self._files:
            offset = 0
            with open_regular(path) as file:
                for number, raw in enumerate(file, start=1):
                    key, quote, _ = raw.removeprefix(_PROMPT).partition(b'"')
                    if not raw.endswith(b"\n"):
                        break  # torn by a kill
                    if not raw.startswith(_PROMPT) or not quote:
                        raise _damaged(path, number, "does not begin with a prompt")
                    found[key.decode(errors="replace")].append((path, number, offset))
                    offset += len(raw)
        return dict(found)

    def _tape(self, path: Path, number: int, offset: int) -> Tape:
        with open_regular(path) as file:
            file.seek(offset)
            raw = file.readline()
        try:
            line = parse_json(raw)
            problem = misfit(line, _Line)
        except ValueError as error:
            problem = str(error)
        if problem is not None:
            raise _damaged(path, number, problem)
        return self._read(path, number, line)

    def _read(self, path: Path, number: int, line: Mapping[str, Any]) -> Tape:
        hidden = line.get("hidden")
        states = None if hidden is None else self._hidden(hidden)
        try:
            return from_dict(line, states)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise _damaged(path, number, f"{type(error).__name__}: {str(error)[:120]}") from None

    def _hidden(self, name: str) -> Mapping[str, NDArray[np.float32]]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.directory / "hidden" / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each span that was written or put in: what asked, its place in the search, its text and how probable it was."""
        import pandas

        return pandas.DataFrame(_table(self.searches()), columns=_COLUMNS)


_COLUMNS = [
    "question", "cell", "path", "stage", "text", "finish_reason", "tokens", "log_prob", "proposal_log_prob", "certainty", "token_ids",
    "log_probs", "hidden_states",
]  # fmt: skip


def _table(tapes: Iterable[Tape]) -> Iterator[tuple[Any, ...]]:
    for tape in tapes:
        for row in tape.rows:
            span = row.span
            yield (
                tape.question, tape.cell, row.path, span.stage, span.text, span.finish_reason, len(span.token_ids), sum(span.log_probs),
                sum(span.proposal_log_probs), float(np.mean(span.certainties)) if span.certainties else None, span.token_ids,
                span.log_probs, span.hidden_states,
            )  # fmt: skip


class PoolWriter:
    """Adds searches to a pool's directory, which it makes if need be.

    Args:
        model: as `Pool.model`. label: of this process's file, empty or ``-1-of-4``.

    Raises:
        ConfigError: the directory is something else, holds another model's searches, or another process writes into it.
    """

    def __init__(
        self, directory: Path, model: Mapping[str, Any], cost: ModelCost | None = None, label: str = ""
    ) -> None:
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"{directory}: is a file: a pool is a folder")
        header = {"format": FORMAT, "model": dict(model), "cost": cost and asdict(cost)}
        if not (directory / "pool.json").exists():
            if directory.is_dir() and any(path.name not in _BESIDE for path in directory.iterdir()):
                raise ConfigError(f"{directory}: not empty and not a pool: choose another folder")
            with naming(directory):
                directory.mkdir(parents=True, exist_ok=True)
            write_new(directory / "pool.json", json.dumps(header, indent=1, ensure_ascii=False) + "\n")
        _same_model(directory, _header(directory)["model"], model)
        self._directory = directory
        self._lines = Appender(directory / f"searches{label}.jsonl")

    def lacking(self, searches: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those (question, cell) that are not there yet."""
        there = {(tape.question, tape.cell) for tape in Pool.open(self._directory).searches()}
        return [search for search in searches if search not in there]

    def add(self, tape: Tape) -> None:
        """Returns when the search is on the disk."""
        line = as_dict(tape)
        states = {
            str(at): row.span.hidden_states for at, row in enumerate(tape.rows) if row.span.hidden_states is not None
        }
        if states:
            line["hidden"] = self._kept(states)
        self._lines.add(line)

    def _kept(self, states: Mapping[str, NDArray[np.float32]]) -> str:
        from safetensors.numpy import save

        from structdecode.core.paths import atomic

        data = save({name: np.ascontiguousarray(value) for name, value in states.items()})
        name = hashlib.blake2b(data, digest_size=12).hexdigest()
        folder = self._directory / "hidden"
        folder.mkdir(exist_ok=True)
        with atomic(folder / f"{name}.safetensors") as partial:
            partial.write_bytes(data)
        return name

    def close(self) -> None:
        self._lines.close()


def merge(pools: Sequence[Path], out: Path) -> int:
    """Copies the searches of several pools of one model into another one; returns how many there were.

    Raises:
        ConfigError: one is no pool, or holds another model's searches.
    """
    opened = [Pool.open(path) for path in pools]
    if out.resolve() in [path.resolve() for path in pools]:
        raise ConfigError(f"{out}: is one of the pools that are merged: give --out another folder")
    for pool in opened[1:]:
        _same_model(pool.directory, pool.model, opened[0].model)
    writer = PoolWriter(out, opened[0].model, opened[0].cost)
    try:
        count = 0
        for pool in opened:
            for tape in pool.searches():
                writer.add(tape)
                count += 1
        return count
    finally:
        writer.close()


def _header(directory: Path) -> dict[str, Any]:
    path = directory / "pool.json"
    try:
        found = parse_json(read_text(path))
    except OSError as error:
        raise ConfigError(f"{directory}: not a pool: pool.json: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f'{path}: not a pool of this version: no "format": "{FORMAT}"')
    problem = misfit(found, _Header)
    if problem is not None:
        raise ConfigError(f"{path}: damaged: {problem}: record the searches again into another folder")
    return found


def _same_model(directory: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differs = [name for name in ("digest", "dtype", "engine") if there.get(name) != here.get(name)]
    if differs:
        what = ", ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in differs)
        raise ConfigError(
            f"{directory}: holds searches of another model ({there['name']}; {what}): record into another folder"
        )


def _damaged(path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{path}:{number}: damaged ({problem}): delete this line and record its search again")
