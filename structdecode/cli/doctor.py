"""``structdecode doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options


def doctor(
    model: options.Model = None,
    backend: options.Backend = None,
    image: Annotated[Path | None, typer.Option(help="A picture to try.")] = None,
    schema: Annotated[str, typer.Option(help="A schema's name or file.")] = "llava-o1",
) -> None:
    """Check versions and devices, and whether model, picture, schema and chat template fit together.

    Example: `structdecode doctor --model ./my-checkpoint --image photo.jpg`
    """
    from structdecode.cli.examination import examine

    findings = examine(model, image, schema, backend)
    for finding in findings:
        print(
            f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}" + ("" if finding.ok else f"\n     -> {finding.remedy}")
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
