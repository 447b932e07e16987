"""``structdecode pocket``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    n: Annotated[int, typer.Option(help="How many questions.")] = 20,
    seed: Annotated[int, typer.Option(help="Another seed, other questions.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Write pictures and a questions.jsonl in the LLaVA-CoT form, answers included.

    Example: `structdecode pocket sample --split test --n 20 --out data/pocket`
    """
    from structdecode.pocket.samples import write_samples

    write_samples(out, split, n, seed, force)
    print(f"Wrote {n} questions to {out / 'questions.jsonl'}")
