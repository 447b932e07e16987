"""Hugging Face data sets, from a folder that ``save_to_disk`` wrote or by a hub name. Pictures are not decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from structdecode.core.problems import BadRow, Rejected, printable
from structdecode.data.rows import Row

_MARKS = ("dataset_info.json", "dataset_dict.json", "state.json")


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((folder / name).is_file() for name in _MARKS)


def rows_of(name: str, split: str | None) -> tuple[list[str], Iterator[Row | Rejected]]:
    """The columns and the rows (numbers from 1) of a folder, or of ``NAME`` or ``NAME:CONFIG`` on the hub.

    Raises:
        DataError: there is no such data set.
        ConfigError: it has several splits and none was chosen, or the chosen one is not among them.
        MissingExtraError: datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "eval") from None
    table = _table(datasets, name)
    if isinstance(table, Mapping):
        table = _split(name, table, split)
    elif split is not None and split != str(table.split or ""):
        raise ConfigError(f"{name}: one split only ({table.split or 'unnamed'}), not {split!r}: leave split out")
    table = _undecoded(datasets, table)
    return list(table.column_names), _rows(table, f"hf:{name}")


def _rows(table: Any, file: str) -> Iterator[Row | Rejected]:
    number = 0
    try:
        for number, cells in enumerate(table, start=1):
            yield Row(number, cells)
    except Exception as error:  # what Arrow raises on a damaged file
        message = f"the rest cannot be read ({str(error)[:200]}): load the data again"
        yield BadRow("broken-file", message).rejected(file, number + 1)


def _table(datasets: Any, name: str) -> Any:
    folder = Path(name)
    try:
        if folder.is_dir() and is_saved(folder):
            return datasets.load_from_disk(name)
        path, _, config = name.partition(":")
        return datasets.load_dataset(path, config or None)
    except Exception as error:  # network, permissions, scripts, broken files: the library raises what it meets
        reason = printable(str(error) or type(error).__name__)[:200]
        raise DataError(f"hf:{name}: cannot be loaded ({reason}): check the name and the network") from None


def _split(name: str, tables: Mapping[str, Any], split: str | None) -> Any:
    if split is None and len(tables) > 1:
        raise ConfigError(f"hf:{name}: has the splits {', '.join(tables)}: choose one with split=")
    chosen = split or next(iter(tables), "")
    if chosen not in tables:
        raise UnknownNameError("split", chosen, tables)
    return tables[chosen]


def _undecoded(datasets: Any, table: Any) -> Any:
    """Image columns as ``{"bytes", "path"}``; a class label stays a number, which is an option's place."""
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return table
