"""``structdecode train`` and ``merge-adapters``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options
from structdecode.core.errors import ConfigError


def train(
    out: Annotated[Path, typer.Option(help="The run directory; the same command resumes an interrupted run.")] = Path(
        "runs/train"
    ),
    recipe: Annotated[str, typer.Option(help="A recipe's name or YAML file; see --list.")] = "llava-o1-11b-lora-1gpu",
    model: Annotated[str | None, typer.Option(help="The checkpoint to start from: a directory or a hub name.")] = None,
    data: Annotated[str | None, typer.Option(help="LLaVA-CoT JSONL, as `structdecode annotate` writes it.")] = None,
    images: Annotated[str | None, typer.Option(help="The folder of pictures; default: that of the data.")] = None,
    held_out: Annotated[
        str | None, typer.Option(help="A JSONL file to measure on, or how many rows (a share below 1) to keep back.")
    ] = None,
    special_tags: Annotated[
        bool | None, typer.Option("--special-tags/--text-tags", help="Make each stage tag one token.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after N optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order, the rows kept back, and new weights.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe, as in its YAML: lr=2e-5.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="On a CPU; default: torch's choice.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the recipes and do nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load and check everything; train nothing.")] = False,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune an image-text model on staged answers, into a checkpoint that every strategy decodes.

    Writes model/ (with a model card), checkpoints/, journal.jsonl, tensorboard/ and curves.png. The same command resumes a killed or interrupted run from its last checkpoint, to the same model.

    Examples:
    `structdecode train --recipe pocket --out runs/pocket`

    `structdecode train --recipe llava-o1-11b-lora-1gpu --data train.jsonl --images images --dry-run`

    `structdecode train --recipe llava-o1-11b-lora-1gpu --data train.jsonl --images images --set lr=2e-4 --out runs/lora`

    `accelerate launch --num_processes 8 -m structdecode train --recipe llava-o1-11b-fsdp --data train.jsonl --out runs/full`

    Exit codes: 0 trained, 2 wrong usage or bad input, 130 interrupted.
    """
    from structdecode.training.recipe_files import show
    from structdecode.training.sft import command
    from structdecode.training.sft.recipe import built_in

    if list_:
        show(built_in())
        return
    given = {"model": model, "data": data, "images": images, "special_tags": special_tags, "max_steps": max_steps}
    run = command.Options(
        recipe, out, {**given, "held_out": _number_or_text(held_out), "seed": seed}, set_ or [], threads,
        trust_remote_code, quiet,
    )  # fmt: skip
    try:
        (command.dry_run if dry_run else command.run)(run)
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; run the same command again to resume {out}", file=sys.stderr)
        raise typer.Exit(130) from None


def merge_adapters(
    adapter: Annotated[Path, typer.Argument(help="A directory with adapter_config.json: OUT/adapter of `train`.")],
    out: Annotated[Path, typer.Option(help="The checkpoint directory to write.")],
    base: Annotated[str | None, typer.Option(help="What was trained from; default: as the adapter says.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (float32), bfloat16 or float16.")] = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Add LoRA adapters to their base model's weights (`train` does it at its end).

    Example: `structdecode merge-adapters runs/lora/checkpoints/checkpoint-400 --dtype bfloat16 --out merged-400`
    """
    from structdecode.training.sft.adapters import merge

    if out.exists():
        raise ConfigError(f"{out}: is there already: choose another --out")
    merge(adapter, out, base=base, dtype=dtype, trust_remote_code=trust_remote_code)
    print(f"Model: {out}  (structdecode generate --model {out} ...)")


def _number_or_text(given: str | None) -> str | float | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        return given
