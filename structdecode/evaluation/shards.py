"""A run in parts: over machines by ``--shard i/n`` and `merge`, over one machine's GPUs by ``accelerate launch``.

A question belongs to a shard by a hash of its id, so shards are disjoint whatever the order of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import as_lines, lines
from structdecode.core.paths import atomic_folder
from structdecode.evaluation.code import code_changes, codes_of, with_accepted
from structdecode.matching.types import Question
from structdecode.records.store import read_run, read_study
from structdecode.records.types import Record


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``1/4`` to ``4/4``.

        Raises:
            ConfigError: it is something else.
        """
        first, slash, second = text.partition("/")
        if not slash or not first.isdecimal() or not second.isdecimal() or not 1 <= int(first) <= int(second):
            raise ConfigError(f"--shard takes i/n with i from 1 to n, such as 1/4, not {text!r}")
        return cls(int(first) - 1, int(second))

    def split(self, index: int, count: int) -> Shard:
        """Part ``index`` of ``count`` of this shard."""
        return Shard(self.index + self.count * index, self.count * count)

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def label(self) -> str:
        """Part of the names of files that this shard's process writes."""
        return "" if self.whole else f"-{self.index + 1}-of-{self.count}"

    def has(self, question: Question) -> bool:
        return shard_of(question.id, self.count) == self.index


def shard_of(question_id: str, count: int) -> int:
    digest = hashlib.blake2b(question_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


@dataclass(frozen=True)
class Process:
    """This process among those that ``accelerate launch`` or ``torchrun`` started."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Process:
        """From ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``.

        Raises:
            ConfigError: they are not numbers, or do not fit together.
        """
        given = os.environ if environment is None else environment
        try:
            world, rank = int(given.get("WORLD_SIZE", "1")), int(given.get("RANK", "0"))
            local = int(given.get("LOCAL_RANK", str(rank)))
        except ValueError as error:
            raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from None
        if not 0 <= rank < world:
            raise ConfigError(f"RANK={rank} does not fit WORLD_SIZE={world}")
        return cls(rank, world, local)

    @property
    def device(self) -> str | None:
        """This process's GPU where there is one for each, None to let the backend choose."""
        if self.world == 1:
            return None
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{self.local_rank % gpus}" if gpus else None


# ------------------------------------------------------------------ one configuration


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first thing that decides results and differs between two ``study.json``, in words; None where nothing does.

    Code is looked at by `evaluation.code.code_changes`.
    """
    ours, theirs = one["config"], other["config"]
    if ours["record_version"] != theirs["record_version"]:
        return f"records of version {ours['record_version']} and {theirs['record_version']}, made by different versions"
    judges = [config.get("judge") or {} for config in (ours, theirs)]
    if judges[0].get("digest") != judges[1].get("digest"):
        return "judge: " + " and ".join(str(judge.get("name", "none")) for judge in judges)
    for name in ("model", "data", "cells"):
        if name == "model":
            for key in ("digest", "dtype", "device"):
                if ours["model"][key] != theirs["model"][key]:
                    values = f"{ours['model'][key]} and {theirs['model'][key]}"
                    return f"model {key} ({theirs['model']['name']}): {values}"
        elif name == "data":
            if ours["data"]["digest"] != theirs["data"]["digest"]:
                counts = f"{ours['data']['questions']} and {theirs['data']['questions']} questions"
                return f"data ({ours['data']['source']}, {theirs['data']['source']}; {counts})"
        else:
            return _cells_difference(ours["cells"], theirs["cells"])
    return None


def _cells_difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> str | None:
    first = {cell["name"]: cell for cell in ours}
    second = {cell["name"]: cell for cell in theirs}
    lone = [name for name in (*first, *second) if (name in first) != (name in second)]
    if lone:
        return f"cell {lone[0]!r} is in one of them only"
    for name, cell in first.items():
        for key in ("resolved", "schema", "budget", "seed"):
            if cell[key] != second[name][key]:
                return f"{key if key != 'resolved' else 'settings'} of cell {name!r}"
    return None


# ------------------------------------------------------------------ merging


def problems(directories: Sequence[Path], *, accept_changed_code: bool = False) -> list[str]:
    """Why these runs do not make one whole: a line each for configurations and code that differ, overlaps and gaps."""
    studies = [read_study(directory) for directory in directories]
    found = []
    for directory, study in zip(directories[1:], studies[1:], strict=True):
        differs = difference(studies[0], study)
        if differs is not None:
            found.append(f"{directories[0]} and {directory} are runs of different studies: {differs}")
        elif not accept_changed_code and (changed := code_changes(codes_of(studies[0])[:1], codes_of(study)[0])):
            found.append(
                f"{directories[0]} and {directory} were made by different code: {'; '.join(changed)}: run one of them "
                "again, or --accept-changed-code"
            )
    if found:
        return found
    runs = [read_run(directory) for directory in directories]
    owners: dict[tuple[str, str], list[int]] = {}
    by_key: dict[tuple[str, str], Record] = {}  # by cell and question: keys differ where code does
    for at, run in enumerate(runs):
        for record in run.records:
            owners.setdefault((record.cell, record.id), []).append(at)
            by_key[record.cell, record.id] = record
    pairs: dict[tuple[int, ...], list[Record]] = {}
    for key, places in owners.items():
        if len(places) > 1:
            pairs.setdefault(tuple(places), []).append(by_key[key])
    for among, records in pairs.items():
        names = " and ".join(str(directories[at]) for at in among)
        found.append(f"overlap: {len(records)} records are in {names}, the first: {_place(records[0])}")
    return found + _gaps(by_key, runs[0].cells, list(runs[0].questions))


def _gaps(have: Container[tuple[str, str]], cells: Sequence[str], ids: Sequence[str]) -> list[str]:
    missing = [(cell, question) for cell in cells for question in ids if (cell, question) not in have]
    counts = Counter(cell for cell, _ in missing)
    first = dict(reversed(missing))
    return [
        f"gap: cell {cell!r} lacks {count} of {len(ids)} questions, the first: {first[cell]!r}"
        for cell, count in counts.items()
    ]


def _place(record: Record) -> str:
    return f"cell {record.cell!r}, question {record.id!r}"


def merge(directories: Sequence[Path], out: Path) -> int:
    """Makes one run directory of several, whole or not at all; returns the number of records.

    Ask `problems` first.

    Raises:
        ConfigError: ``out`` is there already.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already: choose another folder")
    with atomic_folder(out) as partial:
        (partial / "pictures").mkdir()
        return _write_merged(directories, partial)


class _Keyed(TypedDict):
    key: str


def _write_merged(directories: Sequence[Path], partial: Path) -> int:
    studies = [read_study(directory) for directory in directories]
    study = {**studies[0], "merged_from": [str(directory) for directory in directories]}
    for other in studies[1:]:
        for codes in codes_of(other):
            study = with_accepted(study, codes)
    (partial / "study.json").write_text(json.dumps(study, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("questions.jsonl", "rejected.jsonl"):
        shutil.copyfile(directories[0] / name, partial / name)
    count = 0
    seen: set[str] = set()
    with (partial / "traces.jsonl").open("w", encoding="utf-8") as traces:
        for directory in directories:
            for path in sorted(directory.glob("traces*.jsonl")):
                for line in lines(path, _Keyed):
                    if line["key"] not in seen:
                        seen.add(line["key"])
                        traces.write(as_lines([line]))
    with (partial / "records.jsonl").open("w", encoding="utf-8") as records:
        for directory in directories:
            for record in read_run(directory).records:
                records.write(as_lines([record.as_dict()]))
                count += 1
    with (partial / "sessions.jsonl").open("w", encoding="utf-8") as sessions:
        for directory in directories:
            sessions.write(as_lines(list(lines(directory / "sessions.jsonl"))))
    for directory in directories:
        for picture in filter(Path.is_file, (directory / "pictures").glob("[!.]*.png")):
            shutil.copyfile(picture, partial / "pictures" / picture.name)
    return count
