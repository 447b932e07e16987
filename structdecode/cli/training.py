"""The commands of training. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.core.errors import ConfigError
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
    from structdecode.training.export import Options, told
    from structdecode.training.export import export as write

    check_writable(out)
    options = Options(keep, only_correct, min_margin, by, labels)  # type: ignore[arg-type]
    done = write(
        source, to, out, options, schema=schema, images=image or (), answers=answer or (), render=render  # type: ignore[arg-type]
    )  # fmt: skip
    left = f" (without: {told(done.left_out)})" if done.left_out else ""
    print(f"Wrote {done.rows} rows from {done.searches} searches to {out}{left}")
    if to == "dpo" and render is None:
        print("Before DPOTrainer: --render CHECKPOINT, or training.export.preference_text (docs/training/rewards.md)")


def train(
    out: Annotated[Path, typer.Option(help="The run directory; the same command goes on with one.")] = Path(
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
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order, the rows kept back, and new weights.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe, as in its YAML: lr=2e-5.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="On a CPU; default: torch's choice.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the recipes and do nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Load and check everything; train nothing.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fine-tune an image-text model on staged answers, into a checkpoint that every strategy decodes.

    Writes model/ (with a model card), checkpoints/, journal.jsonl, tensorboard/ and curves.png. Killed or interrupted, the same command goes on from the last checkpoint, to the same model.

    Examples:
    `structdecode train --recipe pocket --out runs/pocket`

    `structdecode train --recipe llava-o1-11b-lora-1gpu --data train.jsonl --images images --dry-run`

    `structdecode train --recipe llava-o1-11b-lora-1gpu --data train.jsonl --images images --set lr=2e-4 --out runs/lora`

    `accelerate launch --num_processes 8 -m structdecode train --recipe llava-o1-11b-fsdp --data train.jsonl --out runs/full`

    Exit codes: 0 trained, 2 wrong usage or bad input, 130 interrupted.
    """
    from structdecode.training.sft import command

    if list_:
        command.list_recipes()
        return
    given = {"model": model, "data": data, "images": images, "special_tags": special_tags, "max_steps": max_steps}
    options = command.Options(
        recipe, out, {**given, "held_out": _number_or_text(held_out), "seed": seed}, set_ or [], threads,
        trust_remote_code, quiet,
    )  # fmt: skip
    try:
        (command.dry_run if dry_run else command.run)(options)
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; the same command goes on with {out}", file=sys.stderr)
        raise typer.Exit(130) from None


def merge_adapters(
    adapter: Annotated[Path, typer.Argument(help="A directory with adapter_config.json: OUT/adapter of `train`.")],
    out: Annotated[Path, typer.Option(help="The checkpoint directory to write.")],
    base: Annotated[str | None, typer.Option(help="What was trained from; default: as the adapter says.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (float32), bfloat16 or float16.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
    ] = False,
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


def annotate(
    source: Annotated[
        list[str], typer.Option(help="PATH[:cap=N,images=DIR,name=...,split=...,COLUMNS]; may be given several times.")
    ],
    out: Annotated[Path, typer.Option(help="The run directory; the same command goes on with one.")],
    model: Annotated[str, typer.Option(help="The model that writes the answers, as the API knows it.")] = "gpt-4o",
    judge_model: Annotated[
        str | None,
        typer.Option(help="Asked where no rule can tell whether an answer is right; none; default: --model."),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible server: http://localhost:8000/v1")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 16,
    retries: Annotated[int, typer.Option(help="Attempts behind the first, each told what was wrong.")] = 2,
    max_tokens: Annotated[int, typer.Option(help="Of one answer.")] = 2048,
    temperature: Annotated[float | None, typer.Option(help="Default: the server's own.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one try of a request.")] = 300.0,
    tries: Annotated[int, typer.Option(help="Of a request, where the server or the network fails.")] = 6,
    verifier: Annotated[str | None, typer.Option(help="Has the last word; see `structdecode list verifiers`.")] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Answers that the verifier scores lower are left out.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the verifier.")] = None,
    verifier_model: Annotated[
        str | None, typer.Option(help="A local checkpoint (or pocket) for the verifier; default: the judge model.")
    ] = None,
    price_in: Annotated[float, typer.Option(help="For a million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="For a million completion tokens.")] = 0.0,
    judge_price_in: Annotated[float | None, typer.Option(help="The judge model's; default: the same.")] = None,
    judge_price_out: Annotated[float | None, typer.Option(help="The judge model's; default: the same.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before the run directory has cost more.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate requests, tokens and cost; send nothing.")
    ] = False,
    extra_body: Annotated[str, typer.Option(help="A JSON object: more fields of each request.")] = "",
    seed: Annotated[int, typer.Option(help="Of what the judge and the verifier draw.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Have a strong model write four-stage answers for visual question-answering data.

    Sources are LLaVA-style JSONL, CSV, TSV or Parquet with a folder of pictures, or a folder that `datasets` saved. The
    API key is read from OPENAI_API_KEY. Killed or stopped, the same command goes on; no reply is paid for twice.

    Examples:
    `structdecode annotate --source vqa.jsonl --out runs/annotated --dry-run --price-in 2.5 --price-out 10`

    `structdecode annotate --source coco.jsonl:cap=5000,images=/data/coco --source charts.csv:question=query,answer=label --out runs/annotated --price-in 2.5 --price-out 10 --max-cost 200`

    `structdecode annotate --source ./saved-dataset:split=train --out runs/annotated --base-url http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-72B-Instruct`

    `structdecode annotate --source vqa.jsonl --out runs/annotated --verifier p-true --min-score 0.5 --verifier-model ./checkpoint`

    Exit codes: 0 every record is decided, 1 the API did not answer for some or a fault of our own, of the verifier or of the disk met some (the same command tries again), 2 wrong usage, bad input, or an API that takes no request, 3 stopped by --max-cost, 130 interrupted.
    """
    from structdecode.training.annotation import command
    from structdecode.training.annotation.costs import Prices

    options = command.Options(
        source, out, model, judge_model, base_url, concurrency, retries, max_tokens, temperature, timeout, tries,
        verifier, min_score, set_ or [], verifier_model, Prices(price_in, price_out, judge_price_in, judge_price_out),
        max_cost, extra_body, seed, quiet,
    )  # fmt: skip
    try:
        code = command.dry_run(options) if dry_run else command.annotate(options)
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; the same command goes on with {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


def check_data(
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
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a processor brings.")
    ] = False,
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


def train_verifier(
    rows: Annotated[Path, typer.Argument(help="A JSONL file of `structdecode export --to prm`.")],
    model: Annotated[str, typer.Option(help="The base: a checkpoint directory, a hub name, or pocket.")],
    out: Annotated[Path, typer.Option(help="The run directory; the same command goes on with one.")],
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
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a model brings.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train a verifier that says at the end of each stage how likely all is right so far.

    Killed, the same command goes on. What it writes is used by `--verifier reward-model`.

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


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    data = typer.Typer(help="Data to train on.", no_args_is_help=True)
    data.command("check")(check_data)
    app.add_typer(data, name="data")
    for command in (train, export, annotate):
        app.command()(command)
    app.command("merge-adapters")(merge_adapters)
    app.command("train-verifier")(train_verifier)
