"""``structdecode compare``, ``merge`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from structdecode.cli import options


def compare(
    study: Annotated[Path | None, typer.Argument(help="A study as YAML; or say it by the options below.")] = None,
    out: Annotated[Path, typer.Option(help="The run directory; the same command resumes an interrupted run.")] = Path(
        "runs/compare"
    ),
    data: Annotated[str | None, typer.Option(help="A file, a data set's name, or pocket:test.")] = None,
    model: options.Model = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A name or file.py:Name; may be given several times.")
    ] = None,
    verifier: Annotated[
        list[str] | None,
        typer.Option(help="For the strategies that take one; several times for several; as in `generate`."),
    ] = None,
    budget: Annotated[str, typer.Option(help="Limits a question: tokens=2000,seconds=30.")] = "",
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="n=1,2,4,8: numbers of candidates; or another setting's values; verifier.key=..."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value where a strategy has it; verifier.key=value.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name or file; default: each strategy's own.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder that the data's picture names are in.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set that has several.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="field=name where the data calls a field otherwise.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N questions.")] = None,
    cluster_by: Annotated[
        str | None, typer.Option(help="Column of questions that belong together; default: the same pictures.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Several times for several, pooled; default 0.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that is asked where the rules find an answer wrong; or self.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the questions; see `merge`.")] = None,
    concurrency: Annotated[int, typer.Option(help="Questions in flight.")] = 32,
    record: Annotated[
        Path | None, typer.Option(help="A pool (a folder) that keeps what every search asks of the model.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="A pool in the model's place: nothing is loaded, and nothing made up.")
    ] = None,
    backend: options.Backend = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    check: options.Check = True,
    trust_remote_code: options.TrustRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
    accept_changed_code: Annotated[
        bool, typer.Option("--accept-changed-code", help="Go on with a run that other code began; the report says so.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Run strategies and verifiers on the same questions, and report accuracy against cost.

    The same command resumes a killed or interrupted run; nothing is done twice. A run directory that other
    code began (a verifier that was edited, another version of a plug-in) is refused by name.

    Examples:
    `structdecode compare --data pocket:test --limit 100 --strategy direct --strategy staged --out runs/first`

    `structdecode compare --data questions.jsonl --strategy best-of-n --strategy stage-beam --verifier p-true --sweep n=1,2,4,8 --budget tokens=2000 --out runs/beam`

    `structdecode compare examples/study/pocket.yaml --out runs/study`

    `structdecode compare --data pocket:test --strategy best-of-n --set n=16 --record pools/best-of-16 --out runs/recorded`

    `structdecode compare --data pocket:test --strategy best-of-n --strategy self-consistency --sweep n=1,2,4,8 --replay pools/best-of-16 --out runs/replayed`

    `accelerate launch --num_processes 8 -m structdecode compare study.yaml --out runs/study`

    Exit codes: 0 all done, 1 some questions failed on our side or a verifier never worked, 2 wrong usage or bad input, 130 interrupted.
    """
    from structdecode.evaluation import commands
    from structdecode.evaluation.shards import Shard

    said = {
        "strategies": strategy or [], "verifiers": verifier or [], "budget": budget, "sweep": sweep or [],
        "settings": set_ or [], "schema": schema,
    }  # fmt: skip
    source = {
        "source": data,
        "images": images,
        "split": split,
        "columns": column or [],
        "limit": limit,
        "cluster_by": cluster_by,
    }
    part = Shard.parse(shard) if shard else None
    try:
        failed = commands.compare(
            commands.study_of(study, said, source, model=model, judge=judge, seeds=seed or []), out, shard=part,
            concurrency=concurrency, quiet=quiet, command=["structdecode", *sys.argv[1:]], accept_changed_code=accept_changed_code,
            record=record, replay=replay,
            **options.loading(backend, device, dtype, engine, check, trust_remote_code, allow_pickle),
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; run the same command again to resume {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of `compare --shard`.")],
    out: Annotated[Path, typer.Option(help="The run directory to make.")],
    accept_changed_code: Annotated[
        bool, typer.Option("--accept-changed-code", help="Merge runs of different code; the report says so.")
    ] = False,
) -> None:
    """Make one run of its shards, and its report; overlaps, gaps, different studies and different code are named, with exit code 1.

    Example: `structdecode merge runs/shard-1 runs/shard-2 --out runs/study`
    """
    from structdecode.evaluation import commands, shards

    found = shards.problems(runs, accept_changed_code=accept_changed_code)
    for problem in found:
        print(f"structdecode: {problem}", file=sys.stderr)
    if found:
        raise typer.Exit(1)
    print(f"Merged {shards.merge(runs, out)} records into {out}")
    commands.write_report(out)
    if commands.warn_of_broken(out):
        raise typer.Exit(1)


def report(
    run: Annotated[Path, typer.Argument(help="A run directory of `compare` or `merge`, finished or not.")],
) -> None:
    """Write report.md, report.html and tables.json of a run again.

    Example: `structdecode report runs/study`
    """
    from structdecode.evaluation import commands
    from structdecode.records.store import read_study

    read_study(run)
    commands.write_report(run)
    commands.warn_of_broken(run)
    print(f"Wrote {run / 'report.md'} and {run / 'report.html'}")
