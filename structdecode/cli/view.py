"""``structdecode view``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from structdecode.core.paths import check_writable, write_atomically


def view(
    trace: Annotated[Path, typer.Argument(help="A file written by `generate --trace`.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture that was asked about, to be shown; a trace has none in it. May be given several times."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to; default: beside the trace.")] = None,
) -> None:
    """Write the search tree as one HTML file that needs nothing else.

    Example: `structdecode view runs/demo/trace.json --image runs/demo/picture.png`
    """
    from structdecode.core.trace import Trace
    from structdecode.core.view import render

    target = out or trace.with_suffix(".html")
    check_writable(target)
    loaded = Trace.load(trace)
    pictures = loaded.pictures(image, trace) if image else []
    write_atomically(target, render(loaded, [picture.thumbnail for picture in pictures]))
    print(f"Wrote {target}")


def command(trace: Path, images: Sequence[Path]) -> str:
    """What to type to see a trace of these pictures."""
    return shlex.join(
        ["structdecode", "view", str(trace), *(part for path in images for part in ("--image", str(path)))]
    )
