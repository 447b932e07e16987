"""Data sets in the forms in which they are distributed, as questions; what is wrong with a row is data, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.problems import Rejected
from structdecode.data import files, hub, llava, pocket, vlmeval, vqa
from structdecode.data.pictures import Pictures
from structdecode.data.rows import Loaded, Row, collect

__all__ = ["FORMATS", "Loaded", "load"]

FORMATS = ("llava", "vqa", "hf", "tsv", "pocket")
"""Prefixes that say what a source is: ``llava:train.jsonl``, ``hf:lmms-lab/ChartQA``, ``pocket:test``."""

_SUFFIXES = {".jsonl": "jsonl", ".csv": "vqa", ".parquet": "vqa", ".tsv": "tsv"}
_PEEK = 200
"""So many rows of a JSONL file are looked at for conversations."""


def load(
    source: str | Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    check_images: bool = True,
    cluster_by: str | None = None,
) -> Loaded:
    """Reads a data set.

    Args:
        source: a file (``.jsonl``, ``.csv``, ``.parquet``, ``.tsv``), a folder that holds one or that
            ``save_to_disk`` wrote, or a name with one of the prefixes in `FORMATS`.
        images: the folder that paths of pictures are relative to and may not leave; else that of the file.
        split: which of the splits, where the data have several.
        limit: at most this many questions; of the pocket world 500 unless told.
        columns: field (see `vqa.ALIASES`) -> column, where the data name them otherwise.
        check_images: whether a row is rejected if its picture is not there or does not begin like one. Either way
            each file is read once, for the digest.
        cluster_by: column whose equal values mark questions that are not independent (a document, a template; of the
            pocket world ``category``); by default those with the same pictures.

    Raises:
        DataError: the file is not there, of an unknown format, or lacks a column that is needed.
        ConfigError: an option does not fit the data.
        MissingExtraError: a library for this format is not installed.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    kind, name = _told_apart(str(source))
    if columns and kind not in ("vqa", "hf"):
        raise ConfigError(f"columns is for JSONL, CSV, Parquet and Hugging Face data, not for {kind}")
    if kind == "pocket":
        return _load_pocket(name, split, limit, cluster_by)
    if kind == "hf":
        return _load_hub(name, images, split, limit, columns, check_images, cluster_by)
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    pictures = Pictures(images or path.parent, check_images)
    if kind == "tsv":
        return _load_tsv(path, pictures, split, limit, cluster_by)
    if kind == "vqa":
        return _load_vqa(path, pictures, split, limit, columns, cluster_by)
    if split is not None:
        raise ConfigError(f"{path}: LLaVA-CoT data have no splits, so not {split!r}: leave split out")
    make = partial(llava.question_of, file=str(path), pictures=pictures)
    return collect(path.stem, str(path), files.json_rows(path), make, pictures, limit, cluster_by)


def _told_apart(source: str) -> tuple[str, str]:
    """The format and the source without its prefix."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in FORMATS:
        return prefix, rest
    path = Path(source)
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):
        folder = there = False
    if folder:
        return ("hf", source) if hub.is_saved(path) else _told_apart(str(_only_file(path)))
    if not there:
        raise DataError(f"{source}: no such file; or begin it with a format: {', '.join(f'{f}:' for f in FORMATS)}")
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{source}: unknown format {path.suffix!r}: known: {', '.join(_SUFFIXES)}, or a prefix")
    if kind == "jsonl":
        rows = (row for row in islice(files.json_rows(path), _PEEK) if isinstance(row, Row))
        kind = "llava" if any("conversations" in row.cells for row in rows) else "vqa"
    return kind, source


def _only_file(folder: Path) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:5]) or "none"
        raise DataError(f"{folder}: {len(found)} data files ({names}): name the one")
    return found[0]


def _load_pocket(name: str, split: str | None, limit: int | None, cluster_by: str | None) -> Loaded:
    name = name or split or "test"
    if split is not None and split != name.partition(":")[0]:
        raise ConfigError(f"pocket:{name} and split {split!r} do not go together: leave split out")
    rows = (
        Row(at, {"question": question, "category": question.category})
        for at, question in enumerate(pocket.questions(name, limit))
    )
    return collect(
        f"pocket-{name}", "pocket", rows, lambda row: row.cells["question"], Pictures(None), limit, cluster_by
    )


def _load_hub(
    name: str,
    images: Path | None,
    split: str | None,
    limit: int | None,
    columns: Mapping[str, str] | None,
    check_images: bool,
    cluster_by: str | None,
) -> Loaded:
    present, rows = hub.rows_of(name, split)
    pictures = Pictures(images, check_images)
    named = vqa.Columns(f"hf:{name}", present, columns)
    make = partial(vqa.question_of, file=f"hf:{name}", pictures=pictures, columns=named)
    title = Path(name).name if Path(name).is_dir() else name
    called = f"{title}-{split}" if split else title
    return replace(collect(called, f"hf:{name}", rows, make, pictures, limit, cluster_by), notes=named.notes())


def _load_vqa(
    path: Path,
    pictures: Pictures,
    split: str | None,
    limit: int | None,
    columns: Mapping[str, str] | None,
    cluster_by: str | None,
) -> Loaded:
    present: list[str] | None = None
    rows: Iterator[Row | Rejected]
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        present, rows = vqa.parquet_rows(path)
    elif suffix in (".csv", ".tsv"):
        present, rows = files.table_rows(path, "\t" if suffix == ".tsv" else ",")
    else:
        rows = files.json_rows(path)
    named = vqa.Columns(str(path), present, columns)
    if split is not None:
        if present is not None and not set(named.names("split")) & set(present):
            raise ConfigError(f"{path}: has no column 'split' to choose {split!r} by: leave split out")
        rows = vqa.of_split(rows, named, split)
    make = partial(vqa.question_of, file=str(path), pictures=pictures, columns=named)
    return replace(collect(path.stem, str(path), rows, make, pictures, limit, cluster_by), notes=named.notes())


def _load_tsv(path: Path, pictures: Pictures, split: str | None, limit: int | None, cluster_by: str | None) -> Loaded:
    table, rows = vlmeval.read(path, pictures, split)
    return collect(path.stem, str(path), rows, partial(vlmeval.question_of, table=table), pictures, limit, cluster_by)
