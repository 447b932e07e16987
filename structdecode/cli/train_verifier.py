"""``structdecode train-verifier``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options
from structdecode.core.errors import ConfigError


def train_verifier(
    rows: Annotated[Path | None, typer.Argument(help="A JSONL file of `structdecode export --to prm`.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory; the same command resumes an interrupted run.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name or YAML file; see --list.")] = "reward-lora",
    model: Annotated[str | None, typer.Option(help="The base: a checkpoint directory, a hub name, or pocket.")] = None,
    outcomes: Annotated[
        str | None, typer.Option(help="The same answers with --labels rollouts: the last stage's label is theirs.")
    ] = None,
    held_out: Annotated[float | None, typer.Option(help="Questions to measure on: a share, or how many.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after N optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is held out, and of the order of the rows.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe, as in its YAML: lr=2e-5.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the recipes and do nothing.")] = False,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a verifier that says at the end of each stage how likely all is right so far.

    The same command resumes a killed run. What it writes is used by `--verifier reward-model`; with `--recipe probe`, where --model is the generator itself, by `--verifier probe`. `structdecode schema verifier-recipe` shows what a recipe may hold.

    Examples:
    `structdecode export runs/searches --to prm --labels reference --out steps.jsonl`

    `structdecode train-verifier steps.jsonl --model pocket --recipe reward-pocket --out runs/reward`

    `structdecode train-verifier steps.jsonl --model ./my-checkpoint --set gradient_checkpointing=true --out runs/reward`

    `structdecode train-verifier steps.jsonl --model ./my-checkpoint --recipe probe --out runs/probe`

    `structdecode generate --image a.png --question "How many red squares are there?" --strategy stage-beam --verifier reward-model --set verifier.path=runs/reward/model`
    """
    from structdecode.training.recipe_files import parse_settings, show
    from structdecode.training.reward_model import command
    from structdecode.training.reward_model.recipe import built_in, load_recipe

    if list_:
        show(built_in())
        return
    if out is None:
        raise ConfigError("--out is missing: the run directory")
    flags = {
        "rows": None if rows is None else str(rows), "model": model, "outcomes": outcomes, "held_out": held_out,
        "max_steps": max_steps, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None}
    chosen = load_recipe(recipe, {**parse_settings(set_ or []), **given})
    command.run(chosen, out, trust_remote_code=trust_remote_code, quiet=quiet)
