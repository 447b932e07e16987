"""``structdecode view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structdecode.core.paths import check_writable, write_atomically


def view(
    trace: Annotated[Path, typer.Argument(help="A file written by `generate --trace`.")],
    out: Annotated[Path | None, typer.Option(help="Where to; default: beside the trace.")] = None,
) -> None:
    """Write the search tree as one HTML file that needs nothing else.

    Example: `structdecode view runs/demo/trace.json`
    """
    from structdecode.core.trace import Trace
    from structdecode.core.view import render

    target = out or trace.with_suffix(".html")
    check_writable(target)
    write_atomically(target, render(Trace.load(trace)))
    print(f"Wrote {target}")
