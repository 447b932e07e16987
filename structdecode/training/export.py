"""Search trees as training data: what a search has found and dropped, as rows for other trainers.

``llava-cot`` the best answers, for supervised fine-tuning (rejection sampling, Yuan et al. 2023, arXiv 2308.01825) ·
``dpo`` pairs of sibling stages, for preference training (as Step-DPO, Lai et al. 2024, arXiv 2406.18629) ·
``prm`` answers with a label for each stage, for process reward models (labels by Monte-Carlo rollouts as in
Math-Shepherd, Wang et al. 2023, arXiv 2312.08935). docs/training/rewards.md has the columns.

Every row says where it is from (``origin``: run or trace, cell, key, path). A file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from structdecode.core.errors import ConfigError, MissingExtraError, ModelError, UnknownNameError
from structdecode.core.paths import atomic
from structdecode.training.rows import Options, Row, llava_cot_rows, preference_rows, preference_text, step_rows
from structdecode.training.trees import read_trees

__all__ = ["Exported", "Options", "export", "preference_text", "read_rows", "told", "whole_lines"]

Form = Literal["llava-cot", "dpo", "prm"]


@dataclass(frozen=True)
class Exported:
    """What was written: rows, from how many searches; and how many searches gave none, by reason.

    ``damaged``: what is wrong with lines of the run's traces, by file and line; all else was used.
    """

    rows: int
    searches: int
    left_out: Mapping[str, int]
    damaged: Mapping[str, str] = field(default_factory=dict)


def export(
    source: str | Path,
    to: Form,
    out: str | Path,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    schema: str | None = None,
    images: Sequence[Path] = (),
    answers: Sequence[str] = (),
    render: str | None = None,
) -> Exported:
    """Writes the searches of a run directory or of a trace file as JSONL.

    Args:
        schema, images, answers: for a trace file, which holds none of them.
        render: a checkpoint, whose chat template makes ``dpo`` rows plain text (see `preference_text`).

    Raises:
        ConfigError: an option or the source is wrong, or no search gives a row; then nothing is written.
    """
    if to not in get_args(Form):
        raise UnknownNameError("form", to, get_args(Form))
    if render is not None and to != "dpo":
        raise ConfigError(f"--render is for dpo, not for {to}")
    if options.only_correct and to == "prm":
        raise ConfigError("prm rows need wrong answers too: leave --only-correct out")
    target = Path(out)
    make = {"llava-cot": llava_cot_rows, "dpo": preference_rows, "prm": step_rows}[to]
    processor = _processor(render) if render is not None else None
    left_out: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    rows = searches = 0
    seen: set[bytes] = set()
    trees = read_trees(Path(source), left_out, damaged, schema=schema, images=images, answers=answers)
    with whole_lines(target) as write:
        for tree in trees:
            made = list(make(tree, options, left_out))
            found = [row for row in made if to == "prm" or _new(row, seen)]
            left_out["the same rows as another search"] += bool(made) and not found
            searches += bool(found)
            rows += len(found)
            for row in found:
                write(preference_text(row, processor) if processor is not None else _placed(row, target))
        if not rows:
            lines = f"; damaged: {first_of(damaged)}" if damaged else ""
            raise ConfigError(f"{source}: no row to write ({told(left_out) or 'no searches'}{lines})")
    return Exported(rows, searches, dict(+left_out), damaged)


def told(left_out: Mapping[str, int]) -> str:
    """Reasons with their counts, most frequent first."""
    return ", ".join(f"{count} x {reason}" for reason, count in Counter(left_out).most_common() if count)


def first_of(damaged: Mapping[str, str], most: int = 5) -> str:
    """Lines and what is wrong with them, in one line."""
    named = "; ".join(f"{place} ({problem})" for place, problem in islice(damaged.items(), most))
    return f"{named}; and {len(damaged) - most} more" if len(damaged) > most else named


def _processor(checkpoint: str) -> Any:
    from structdecode.backends.transformers.loading import load_processor

    processor = load_processor(checkpoint)
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"model {checkpoint!r}: no chat template to render prompts with")
    return processor


# ------------------------------------------------------------------ files


def _new(row: Row, seen: set[bytes]) -> bool:
    """Whether no other search (of another cell or seed) has given the same text; step labels are estimates anew."""
    content = [row.get(key) for key in ("image", "images", "conversations", "prompt", "chosen", "rejected")]
    digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True


def _placed(row: Row, target: Path) -> Row:
    """With its picture copied beside the file: LLaVA-CoT readers want ``image`` below the file's folder."""
    if "image" not in row:
        return row
    source, folder = Path(row["image"]), target.with_name(f"{target.stem}_images")
    copy = folder / source.name
    if not copy.exists() or copy.stat().st_size != source.stat().st_size:
        folder.mkdir(exist_ok=True)
        with atomic(copy, sync=False) as partial:
            shutil.copyfile(source, partial)
    return {**row, "image": f"{folder.name}/{source.name}"}


@contextmanager
def whole_lines(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Writes JSON lines one by one into a file that is there whole at the end, or not at all."""
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield lambda row: _write(file, row)


def _write(file: Any, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_rows(paths: Iterable[str | Path]) -> Any:
    """Exported files as a `datasets.Dataset`, the paths in ``images`` opened as pictures when a row is read.

    Raises:
        MissingExtraError: `datasets` is not installed.
    """
    try:
        from datasets import Image, List, load_dataset
    except ImportError:
        raise MissingExtraError("datasets", "train") from None
    rows = load_dataset("json", data_files=[str(path) for path in paths], split="train")
    return rows.cast_column("images", List(Image())) if "images" in rows.column_names else rows
