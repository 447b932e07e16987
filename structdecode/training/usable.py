"""Which rows can be trained on: known before the first step, counted, and never replaced by others."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from structdecode.core.errors import DataError
from structdecode.core.problems import BadRow, Rejected

Size = tuple[int, int]
"""Width and height of a picture in pixels."""

CHOSEN = ("too-long",)
"""Problems that a setting makes, which do not count against the share that may be left out."""

_log = logging.getLogger(__name__)


def examined(
    total: int, sizes_of: Callable[[int], Sequence[Size]], length_of: Callable[[int, Sequence[Size]], int]
) -> list[int | BadRow]:
    """Of each row its length in tokens, or why it cannot be used.

    Where there are several processes each looks at a part of the rows, and all know all.

    Args:
        sizes_of: decodes a row's pictures; called in threads. length_of: a row's length with pictures of these sizes.
            Both raise `BadRow`.
    """
    together = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    found = list(_looked(range(rank, total, world), sizes_of, length_of))
    if world == 1:
        return found
    parts: list[list[int | BadRow]] = [[] for _ in range(world)]
    distributed.all_gather_object(parts, found)
    return [parts[index % world][index // world] for index in range(total)]


@dataclass(frozen=True)
class Usable:
    """What `examined` found of a set.

    Attributes:
        kept: [N], which rows can be used. lengths: [rows kept], in tokens. rejected: why the others cannot, and those
            that were left out before, by line.
    """

    kept: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    rejected: list[Rejected]


def split_usable(
    found: Sequence[int | BadRow], path: Path, lines: NDArray[np.int64], rejected: Sequence[Rejected]
) -> Usable:
    """The rows of a file apart by what `examined` found of them; ``lines``: of each row.

    Raises:
        DataError: none can be used.
    """
    bad = [
        each.rejected(str(path), int(line)) for line, each in zip(lines, found, strict=True) if isinstance(each, BadRow)
    ]
    if len(bad) == len(found):
        raise DataError(f"{path}: no row can be used; the first, line {bad[0].line}: {bad[0].message}")
    return Usable(
        np.array([not isinstance(each, BadRow) for each in found]),
        np.array([each for each in found if not isinstance(each, BadRow)], dtype=np.int64),
        sorted([*rejected, *bad], key=lambda one: one.line or 0),
    )


def _looked(
    indices: Iterable[int], sizes_of: Callable[[int], Sequence[Size]], length_of: Callable[[int, Sequence[Size]], int]
) -> Iterable[int | BadRow]:
    def sizes(index: int) -> Sequence[Size] | BadRow:
        try:
            return sizes_of(index)
        except BadRow as bad:
            return bad

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, looked in zip(indices, pool.map(sizes, indices), strict=True):
            try:
                yield looked if isinstance(looked, BadRow) else length_of(index, looked)
            except BadRow as bad:
                yield bad


def left_out(rejected: Sequence[Rejected], kept: int) -> str:
    """In words: how many rows of how many, and why."""
    total, kinds = len(rejected) + kept, Counter(bad.problem for bad in rejected)
    why = f" ({', '.join(f'{count:,} {problem}' for problem, count in kinds.most_common())})" if kinds else ""
    return f"{len(rejected):,} of {total:,} rows{why}"


def check_left_out(path: Path, rejected: Sequence[Rejected], kept: int, most: float) -> None:
    """Says what is left out, and ends the run where that is more than a share ``most`` of all.

    Raises:
        DataError: naming the kinds of problems, the first row, and the remedy.
    """
    for bad in rejected[:5]:
        _log.warning("left out: %s:%s: %s", bad.file, bad.line, bad.message)
    if rejected:
        _log.warning("left out: %s", left_out(rejected, kept))
    counted = [bad for bad in rejected if bad.problem not in CHOSEN]
    if len(counted) > most * (len(rejected) + kept):
        first = counted[0]
        raise DataError(
            f"{path}: {left_out(rejected, kept)} cannot be used, more than max_left_out ({100 * most:g} %); the first, "
            f"line {first.line}: {first.message} (mend them: structdecode data check --fix; or raise max_left_out)"
        )
