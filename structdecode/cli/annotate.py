"""``structdecode annotate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options


def annotate(
    source: Annotated[
        list[str], typer.Option(help="PATH[:cap=N,images=DIR,name=...,split=...,COLUMNS]; may be given several times.")
    ],
    out: Annotated[Path, typer.Option(help="The run directory; the same command resumes an interrupted run.")],
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
    verifier_backend: Annotated[
        str | None, typer.Option(help="Of the verifier's model; see `structdecode list backends`; or file.py:Name.")
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
    quiet: options.Quiet = False,
) -> None:
    """Have a strong model write four-stage answers for visual question-answering data.

    Sources are LLaVA-style JSONL, CSV, TSV or Parquet with a folder of pictures, or a folder that `datasets` saved. The
    API key is read from OPENAI_API_KEY. The same command resumes a killed or stopped run; no reply is paid for twice.

    Examples:
    `structdecode annotate --source vqa.jsonl --out runs/annotated --dry-run --price-in 2.5 --price-out 10`

    `structdecode annotate --source coco.jsonl:cap=5000,images=/data/coco --source charts.csv:question=query,answer=label --out runs/annotated --price-in 2.5 --price-out 10 --max-cost 200`

    `structdecode annotate --source ./saved-dataset:split=train --out runs/annotated --base-url http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-72B-Instruct`

    `structdecode annotate --source vqa.jsonl --out runs/annotated --verifier p-true --min-score 0.5 --verifier-model ./checkpoint`

    Exit codes: 0 every record is decided, 1 the API did not answer for some or a fault of our own, of the verifier or of the disk met some (the same command tries again), 2 wrong usage, bad input, or an API that takes no request, 3 stopped by --max-cost, 130 interrupted.
    """
    from structdecode.training.annotation import command
    from structdecode.training.annotation.costs import Prices

    given = command.Options(
        source, out, model, judge_model, base_url, concurrency, retries, max_tokens, temperature, timeout, tries,
        verifier, min_score, set_ or [], verifier_model, verifier_backend, Prices(price_in, price_out, judge_price_in, judge_price_out),
        max_cost, extra_body, seed, quiet,
    )  # fmt: skip
    try:
        code = command.dry_run(given) if dry_run else command.annotate(given)
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; run the same command again to resume {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)
