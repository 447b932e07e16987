"""``structdecode export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.core.paths import check_writable


def export(
    source: Annotated[Path, typer.Argument(help="A run directory of `compare`, or a file of `generate --trace`.")],
    to: Annotated[str, typer.Option(help="llava-cot, dpo or prm.")],
    out: Annotated[Path, typer.Option(help="The JSONL file to write, whole or not at all.")],
    keep: Annotated[int, typer.Option(help="The most rows: of a search (llava-cot), of a set of siblings (dpo).")] = 1,
    only_correct: Annotated[
        bool, typer.Option("--only-correct", help="llava-cot: right answers; dpo: chosen sides that led to one.")
    ] = False,
    min_margin: Annotated[float, typer.Option(help="dpo: how much better the chosen side has to be.")] = 0.0,
    by: Annotated[
        str | None, typer.Option(help="dpo: better by correctness (default where there are references) or by score.")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="prm: rollouts, or reference (the data's text of each stage).")
    ] = "rollouts",
    render: Annotated[
        str | None, typer.Option(help="dpo: the checkpoint whose chat template makes the rows plain text.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="For a trace file: its schema, where it is a file.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="For a trace file: its picture.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="For a trace file: the right answer.")] = None,
) -> None:
    """Make training data of search trees: best answers, preference pairs of stages, or step labels.

    Examples:
    `structdecode export runs/study --to llava-cot --only-correct --out data/train.jsonl`

    `structdecode export runs/study --to dpo --min-margin 0.5 --render ./my-checkpoint --out data/pairs.jsonl`

    `structdecode export trace.json --image photo.jpg --answer 3 --to prm --out data/steps.jsonl`
    """
    from structdecode.training.export import Options, first_of, told
    from structdecode.training.export import export as write

    check_writable(out)
    given = Options(keep, only_correct, min_margin, by, labels)  # type: ignore[arg-type]
    done = write(
        source, to, out, given, schema=schema, images=image or (), answers=answer or (), render=render  # type: ignore[arg-type]
    )  # fmt: skip
    if done.damaged:
        print(f"structdecode: left out, damaged: {first_of(done.damaged)}", file=sys.stderr)
    left = f" (without: {told(done.left_out)})" if done.left_out else ""
    print(f"Wrote {done.rows} rows from {done.searches} searches to {out}{left}")
    if to == "dpo" and render is None:
        print("Before DPOTrainer: --render CHECKPOINT, or training.export.preference_text (docs/training/rewards.md)")
