"""``structdecode data check``: progress, printing and files around `structdecode.training.check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from structdecode.core.errors import ConfigError, DataError, ModelError
from structdecode.core.paths import write_atomically
from structdecode.core.schemas import LLAVA_O1
from structdecode.data.files import lines
from structdecode.training.check import Limits, check
from structdecode.training.check_report import CheckReport, show

if TYPE_CHECKING:
    from structdecode.training.lengths import TokenCounter


def run(
    path: Path,
    *,
    images: Path | None,
    model: str | None,
    schema: str | None,
    max_length: int | None,
    fix: Path | None,
    out: Path | None,
    workers: int | None,
    as_json: bool,
    trust_remote_code: bool,
) -> CheckReport:
    """Checks a set and says what was found; the caller exits with 1 where ``report.errors`` holds any.

    Raises:
        StructdecodeError: the set, the model or a place to write to cannot be used.
    """
    from structdecode.core.lookup import find_schema

    if max_length is not None and model is None:
        raise ConfigError("--max-length counts tokens: name the model whose tokens they are with --model")
    if max_length is not None and max_length < 1:
        raise ConfigError(f"--max-length must be at least 1, not {max_length}")
    file = find_set(path)
    limits = Limits()
    if model is not None:
        counter, context = load_counter(model, trust_remote_code=trust_remote_code)
        limits = Limits(counter, max_length or context)
    chosen = find_schema(schema) if schema else LLAVA_O1
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("Checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rows", total=count_lines(file))
        report = check(
            file, images=images, schema=chosen, limits=limits, fix=fix, workers=workers,
            progress=lambda line: bar.update(task, completed=line),
        )  # fmt: skip
    found = report.as_dict()
    if out is not None:
        write_atomically(out, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(report, Console(highlight=False))
        if fix is not None:
            print(f"Wrote {report.good:,} good rows to {fix}")
    return report


def count_lines(path: Path) -> int:
    """For a progress bar. Raises `DataError` where the file cannot be opened."""
    return sum(1 for _ in lines(path))


def find_set(path: Path) -> Path:
    """The file itself, or the one JSONL file of a folder (``train.jsonl`` where there are several).

    Raises:
        DataError: there is none, or there are several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: {'not a regular file or folder' if path.exists() else 'no such file or folder'}")
    found = sorted(path.glob("*.jsonl"))
    train = path / "train.jsonl"
    if train in found or len(found) == 1:
        return train if train in found else found[0]
    raise DataError(
        f"{path}: {len(found)} JSONL files ({', '.join(p.name for p in found[:5]) or 'none'}): name the one"
    )


def load_counter(model: str, *, trust_remote_code: bool = False) -> tuple[TokenCounter, int | None]:
    """A model's token counter and the length of its context; weights are not loaded.

    Raises:
        ModelError: there is no processor, or one without chat template.
    """
    from transformers import AutoConfig

    from structdecode.backends.transformers.loading import check_processor, load_processor
    from structdecode.core.lookup import find_checkpoint
    from structdecode.training.lengths import TokenCounter

    model = find_checkpoint(model)
    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise ModelError(f"model {model!r}: no such directory")
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        processor = load_processor(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {model!r}: {str(error).strip().splitlines()[0][:300]}") from error
    check_processor(processor, model)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return TokenCounter(processor), context
