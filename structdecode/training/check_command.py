"""``structdecode data check``: progress, printing and files around `structdecode.training.check`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from structdecode.errors import ConfigError
from structdecode.evaluation.store import write_whole
from structdecode.schemas import LLAVA_O1
from structdecode.training.check import Limits, check, count_lines, find_set, load_counter
from structdecode.training.check_report import CheckReport, show


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
    from structdecode.assembly import find_schema

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
        write_whole(out, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(report, Console(highlight=False))
        if fix is not None:
            print(f"Wrote {report.good:,} good rows to {fix}")
    return report
