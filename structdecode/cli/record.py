"""``structdecode record`` and ``merge-pools``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options


def record(
    out: Annotated[Path, typer.Option(help="The pool, a folder; the same command resumes an interrupted recording.")],
    data: Annotated[str | None, typer.Option(help="A file, a data set's name, or pocket:test.")] = None,
    model: options.Model = None,
    n: Annotated[int, typer.Option(min=1, help="Independent whole answers a question.")] = 16,
    branches: Annotated[
        int,
        typer.Option(min=0, help="Continuations of every candidate at every stage: a whole tree, n ** stages answers."),
    ] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the sampling: temperature=0.8.")] = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name or file; default: llava-o1.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder that the data's picture names are in.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set that has several.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="field=name where the data calls a field otherwise.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N questions.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Several times for several; default 0.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the questions; see `merge-pools`.")] = None,
    concurrency: Annotated[int, typer.Option(help="Questions in flight.")] = 32,
    backend: options.Backend = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    check: options.Check = True,
    trust_remote_code: options.TrustRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
) -> None:
    """Record what a model writes for questions, so that searches and verifiers can be compared without it.

    Recorded are the greedy answer, independent samples, and with --branches a whole tree. `compare --replay` then runs any strategy that asks for no more than was recorded, in minutes. What was recorded is in the
    folder `run` of the pool, too, as a run of `compare`: data, code and settings.

    Examples:
    `structdecode record --data pocket:test --limit 500 --n 16 --out pools/pocket`

    `structdecode record --data pocket:test --limit 500 --branches 4 --out pools/pocket-tree`

    `structdecode compare --data pocket:test --limit 500 --strategy best-of-n --verifier reward-model --set verifier.path=pocket-verifier --sweep n=2,4,8,16 --replay pools/pocket --out runs/reward`

    Exit codes: 0 all recorded, 1 some questions failed on our side, 2 wrong usage or bad input, 130 interrupted.
    """
    from structdecode.evaluation import commands
    from structdecode.evaluation.shards import Shard
    from structdecode.evaluation.study import recording

    source = {"source": data, "images": images, "split": split, "columns": column or [], "limit": limit}
    try:
        failed = commands.compare(
            recording(
                commands.data_of(source), n, branches, model=model, settings=set_ or [], schema=schema, seeds=seed or [0]
            ), out / "run",
            shard=Shard.parse(shard) if shard else None, concurrency=concurrency, quiet=quiet, report=False, record=out,
            command=["structdecode", *sys.argv[1:]],
            **options.loading(backend, device, dtype, engine, check, trust_remote_code, allow_pickle),
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; run the same command again to resume {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


def merge_pools(
    pools: Annotated[list[Path], typer.Argument(help="Pools of one model.")],
    out: Annotated[Path, typer.Option(help="The pool to make, or to add them to.")],
) -> None:
    """Put the searches of several pools of one model into one.

    Example: `structdecode merge-pools pools/shard-1 pools/shard-2 --out pools/all`
    """
    from structdecode.pools.store import merge

    print(f"Merged {merge(pools, out)} searches into {out}")
