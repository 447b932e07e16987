"""``structdecode select``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def select(
    run: Annotated[
        Path, typer.Argument(help="A run of `compare` with cells of best-of-n or self-consistency, finished or not.")
    ],
    n: Annotated[str, typer.Option(help="Numbers of samples, up to what was drawn.")] = "2,4,8,16",
    selector: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, or {name: {setting: value}}; several times for several; default: all that need no setting."
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=1, help="Random subsets a question where there are too many for all.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of these.")] = 0,
) -> None:
    """Say what each selector would choose from N of the samples of a run, for every N, with every verifier of the run.

    Nothing is generated: any N of the samples that were drawn are as good as N new ones. With each figure stand what generation and
    what selection loses, and the gain over the greedy answer where the run has a cell `staged`. Writes selection.md, .html and .json.

    Examples:
    `structdecode select runs/replayed --n 2,4,8,16`

    `structdecode select runs/replayed --selector majority --selector "{softmax: {temperature: 0.1}}"`
    """
    from structdecode.core.errors import ConfigError
    from structdecode.core.settings import selector_from, selectors_by_name
    from structdecode.evaluation.report.results import Results
    from structdecode.evaluation.report.selection import Selection, write
    from structdecode.records.store import read_run

    sizes = sorted({int(size) for size in n.split(",") if size.strip().isdecimal()})
    if not sizes or sizes[0] < 1 or len(sizes) != len([size for size in n.split(",") if size.strip()]):
        raise ConfigError(f"--n takes different numbers from 1 up, such as 2,4,8, not {n!r}")
    chosen = {name: selector_from(name) for name in selector or selectors_by_name()}
    selection = Selection(Results(read_run(run)), chosen, sizes, draws, seed)
    page = write(selection)
    print((run / "selection.md").read_text(encoding="utf-8"))
    print(f"Wrote {page}")
