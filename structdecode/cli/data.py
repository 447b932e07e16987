"""``structdecode data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options
from structdecode.core.paths import check_writable


def check(
    path: Annotated[Path, typer.Argument(help="A LLaVA-CoT style JSONL file, or the folder that holds it.")],
    images: Annotated[Path | None, typer.Option(help="The folder of pictures; default: that of the file.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub name: lengths are counted in its tokens.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name or file; default: llava-o1.")] = None,
    max_length: Annotated[int | None, typer.Option(help="In tokens; default: the model's context.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write the good rows, and only those, to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads that decode pictures; default: one a processor.")] = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Check rows, stages, pictures, doubles and lengths of a training set before GPUs are paid for.

    Examples:
    `structdecode data check train.jsonl --images images`

    `structdecode data check train.jsonl --images images --model ./base --max-length 4096 --fix good.jsonl`

    Exit codes: 0 no errors (there may be warnings), 1 errors, 2 wrong usage or no such file.
    """
    from structdecode.training import check_command

    check_writable(out)
    check_writable(fix)
    report = check_command.run(
        path, images=images, model=model, schema=schema, max_length=max_length, fix=fix, out=out, workers=workers,
        as_json=as_json, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if report.errors:
        raise typer.Exit(1)
