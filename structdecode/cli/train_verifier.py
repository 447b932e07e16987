"""``structdecode train-verifier``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options


def train_verifier(
    rows: Annotated[Path, typer.Argument(help="A JSONL file of `structdecode export --to prm`.")],
    model: Annotated[str, typer.Option(help="The base: a checkpoint directory, a hub name, or pocket.")],
    out: Annotated[Path, typer.Option(help="The run directory; the same command resumes an interrupted run.")],
    outcomes: Annotated[
        str | None, typer.Option(help="The same answers with --labels rollouts: the last stage's label is theirs.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="head (the backbone is frozen), lora (merged at the end) or full.")
    ] = "lora",
    schema: Annotated[str, typer.Option(help="The stages' name or file.")] = "llava-o1",
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Start from the model's own log-probabilities, and use them.")
    ] = False,
    language_modelling: Annotated[
        float, typer.Option(help="With --likelihood: weight of a loss of writing what is right.")
    ] = 0.0,
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Also learn which sentence went wrong; for answers of one wording.")
    ] = False,
    held_out: Annotated[float, typer.Option(help="Questions to measure on: a share, or how many.")] = 0.1,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 3.0,
    max_steps: Annotated[int, typer.Option(help="Above 0: instead of --epochs.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Answers in a batch.")] = 16,
    accumulation: Annotated[int, typer.Option(help="Batches in a step.")] = 1,
    lr: Annotated[float, typer.Option(help="The highest learning rate; it falls along a cosine.")] = 1e-4,
    warmup: Annotated[float, typer.Option(help="A share of the steps.")] = 0.03,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    lora_rank: Annotated[int, typer.Option(help="Of the adapters.")] = 16,
    lora_alpha: Annotated[int, typer.Option(help="Of the adapters.")] = 32,
    lora_dropout: Annotated[float, typer.Option(help="Of the adapters.")] = 0.05,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    max_length: Annotated[int | None, typer.Option(help="In tokens; longer answers are left out.")] = None,
    max_left_out: Annotated[float, typer.Option(help="The share of rows that may be unusable.")] = 0.01,
    eval_every: Annotated[int, typer.Option(help="Steps between measurements; 0: at the end only.")] = 200,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: none.")] = 200,
    keep: Annotated[int, typer.Option(help="Checkpoints that stay.")] = 2,
    log_every: Annotated[int, typer.Option(help="Steps between lines of the journal.")] = 20,
    workers: Annotated[int, typer.Option(help="Processes that read and decode pictures ahead.")] = 0,
    seed: Annotated[int, typer.Option(help="Of what is held out, and of the order of the rows.")] = 0,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a verifier that says at the end of each stage how likely all is right so far.

    The same command resumes a killed run. What it writes is used by `--verifier reward-model`.

    Examples:
    `structdecode export runs/searches --to prm --labels reference --out steps.jsonl`

    `structdecode train-verifier steps.jsonl --model pocket --method full --lr 6e-4 --out runs/reward`

    `structdecode train-verifier steps.jsonl --model ./my-checkpoint --gradient-checkpointing --out runs/reward`

    `structdecode generate --image a.png --question "How many red squares are there?" --strategy stage-beam --verifier reward-model --set verifier.path=runs/reward/model`
    """
    from structdecode.training.reward_model import command

    command.run(
        rows, out, model=model, outcomes=outcomes, method=method, schema=schema, likelihood=likelihood,
        language_modelling=language_modelling, sentences=sentences,
        held_out=held_out, epochs=epochs, max_steps=max_steps, batch_size=batch_size, accumulation=accumulation,
        lr=lr, warmup=warmup, weight_decay=weight_decay, lora_rank=lora_rank, lora_alpha=lora_alpha,
        lora_dropout=lora_dropout, gradient_checkpointing=gradient_checkpointing, max_length=max_length, max_left_out=max_left_out,
        eval_every=eval_every, save_every=save_every, keep=keep, log_every=log_every, workers=workers, seed=seed,
        trust_remote_code=trust_remote_code, quiet=quiet,
    )  # fmt: skip
