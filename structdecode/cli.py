"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from structdecode.errors import ConfigError, StructdecodeError

if TYPE_CHECKING:
    from structdecode.engine import Result
    from structdecode.protocols import Backend

app = typer.Typer(
    help="Staged decoding of vision-language models: any schema, any strategy, any verifier.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False,
)  # fmt: skip
pocket = typer.Typer(help="The embedded model's little world.", no_args_is_help=True)
app.add_typer(pocket, name="pocket")
data = typer.Typer(help="Data to train on.", no_args_is_help=True)
app.add_typer(data, name="data")

BUDGET_SPENT = 3


@app.command()
def generate(
    question: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[list[Path] | None, typer.Option(help="A picture; may be given several times.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub name; default: the pocket model.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name, or a .yaml or .json file.")] = None,
    strategy: Annotated[str | None, typer.Option(help="See `structdecode list strategies`.")] = None,
    verifier: Annotated[str | None, typer.Option(help="See `structdecode list verifiers`.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the strategy; verifier.key=value.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings: llava-o1-paper.")] = None,
    budget: Annotated[
        str, typer.Option(help="Limits: tokens=2000,seconds=30 (also prefill_tokens, model_calls, verifier_calls).")
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    show_stages: Annotated[bool, typer.Option("--show-stages", help="Print the hidden stages too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write the search tree here, for `structdecode view`.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: CUDA where there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="slots (one batch of all open rows) or plain (one request at a time).")
    ] = "slots",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")
    ] = False,
) -> None:
    """Answer a question about a picture, stage by stage.

    Examples:
    `structdecode generate --image photo.jpg --question "How many red squares are there?"`

    `structdecode generate --image photo.jpg --question "..." --strategy stage-beam --verifier p-true --set candidates=8`

    `structdecode generate --image photo.jpg --question "..." --model Xkev/Llama-3.2V-11B-cot --preset llava-o1-paper`

    Exit codes: 0 answered, 2 wrong usage or bad input, 3 stopped by the budget before an answer.
    """
    from structdecode.assembly import find_schema, load_backend, make_strategy
    from structdecode.budget import Budget
    from structdecode.types import Prompt

    _check_writable(trace)
    prompt = Prompt(question, list(image or []))
    made, verifier_name, strategy_name = make_strategy(strategy, verifier, set_ or [], preset)
    chosen_schema = find_schema(schema) if schema else None
    limits = Budget.parse(budget)
    backend = load_backend(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, engine=engine
    )
    options = {"schema": chosen_schema, "strategy": made, "budget": limits, "seed": seed}
    result = _run(prompt, backend, options, settings=repr(made), as_json=as_json, show_stages=show_stages)
    if trace is not None:
        result.trace.save(trace)
    if as_json:
        print(json.dumps(as_object(result, strategy_name, verifier_name), ensure_ascii=False))
    elif trace is not None:
        print(f"Trace: {trace}  (structdecode view {trace})")
    if result.stopped_by and not result.answer:
        print(f"structdecode: stopped by the budget ({result.stopped_by}) before an answer", file=sys.stderr)
        raise typer.Exit(BUDGET_SPENT)


def _run(
    prompt: Any, backend: Backend, options: dict[str, Any], *, settings: str, as_json: bool, show_stages: bool
) -> Result:
    from rich.console import Console

    from structdecode.engine import decode
    from structdecode.terminal import LiveStages, show_result

    if as_json:
        return decode(prompt, backend=backend, **options)
    console = Console(highlight=False)
    with LiveStages(console) as live:
        result = decode(prompt, backend=backend, observer=live, **options)
    show_result(console, result, settings, show_stages)
    return result


def as_object(result: Result, strategy: str, verifier: str | None) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "answer": result.answer,
        "stages": result.stages,
        "strategy": strategy,
        "verifier": verifier,
        "usage": result.usage.as_dict(),
        "seed": result.seed,
        "stopped_by": result.stopped_by,
        "candidates": [
            {
                "path": list(r.candidate.path), "text": r.candidate.text, "stages": dict(r.candidate.stages),
                "score": r.score.value, "reason": r.score.reason,
                "finish_reasons": [span.finish_reason for span in r.candidate.spans],
            }
            for r in result.candidates
        ],
    }  # fmt: skip


@app.command("list")
def list_(
    group: Annotated[
        str | None, typer.Argument(help="strategies, verifiers, backends or schemas; default: all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what there is, plug-ins of other packages included.

    Example: `structdecode list verifiers`
    """
    from structdecode import registry
    from structdecode.errors import UnknownNameError

    if group is not None and group not in registry.GROUPS:
        raise UnknownNameError("group", group, registry.GROUPS)
    found: dict[str, dict[str, Any]] = {}
    for each in registry.GROUPS:
        if group is None or group == each:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found[each] = {name: _describe(item) for name, item in registry.load_all(each).items()}
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for heading, items in found.items():
        print(f"{heading}:")
        for name, about in items.items():
            print(f"  {name:18} {about['summary']}")
            if about["settings"]:
                print(f"  {'':18} --set {' '.join(f'{k}={v}' for k, v in about['settings'].items())}")


def _describe(item: Any) -> dict[str, Any]:
    import dataclasses
    import inspect

    doc = inspect.getdoc(item) if inspect.isclass(item) or inspect.isfunction(item) else ""
    stages = getattr(item, "stages", None)
    summary = (doc or "").split("\n")[0] or ", ".join(stage.name for stage in stages or ())
    settings = {}
    if inspect.isclass(item) and dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            if field.default is not dataclasses.MISSING and isinstance(field.default, str | int | float | type(None)):
                settings[field.name] = "..." if "\n" in str(field.default) else field.default
    return {"summary": summary, "settings": settings}


@app.command()
def view(
    trace: Annotated[Path, typer.Argument(help="A file written by `generate --trace`.")],
    out: Annotated[Path | None, typer.Option(help="Where to; default: beside the trace.")] = None,
) -> None:
    """Write the search tree as one HTML file that needs nothing else.

    Example: `structdecode view runs/demo/trace.json`
    """
    from structdecode.trace import Trace
    from structdecode.view import render

    target = out or trace.with_suffix(".html")
    _check_writable(target)
    target.write_text(render(Trace.load(trace)), encoding="utf-8")
    print(f"Wrote {target}")


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub name; default: the pocket model.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to try.")] = None,
    schema: Annotated[str, typer.Option(help="A schema's name or file.")] = "llava-o1",
) -> None:
    """Check versions and devices, and whether model, picture, schema and chat template fit together.

    Example: `structdecode doctor --model ./my-checkpoint --image photo.jpg`
    """
    from structdecode.doctor import examine

    findings = examine(model, image, schema)
    for finding in findings:
        print(
            f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}" + ("" if finding.ok else f"\n     -> {finding.remedy}")
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def compare(
    study: Annotated[Path | None, typer.Argument(help="A study as YAML; or say it by the options below.")] = None,
    out: Annotated[Path, typer.Option(help="The run directory; the same command goes on with one.")] = Path(
        "runs/compare"
    ),
    data: Annotated[str | None, typer.Option(help="A file, a data set's name, or pocket:test.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub name; default: the pocket model.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    verifier: Annotated[
        list[str] | None, typer.Option(help="For the strategies that take one; several times for several.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Limits a question: tokens=2000,seconds=30.")] = "",
    sweep: Annotated[
        list[str] | None, typer.Option(help="n=1,2,4,8: numbers of candidates; or another setting's values.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value where a strategy has it; verifier.key=value.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name or file; default: each strategy's own.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder that the data's picture names are in.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set that has several.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="field=name where the data calls a field otherwise.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Several times for several; default 0.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that is asked where the rules find an answer wrong; or self.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the questions; see `merge`.")] = None,
    concurrency: Annotated[int, typer.Option(help="Questions in flight.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(help="slots or plain.")] = "slots",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Run strategies and verifiers on the same questions, and report accuracy against cost.

    Killed or interrupted, the same command goes on where it was; nothing is done twice.

    Examples:
    `structdecode compare --data pocket:test --limit 100 --strategy direct --strategy staged --out runs/first`

    `structdecode compare --data questions.jsonl --strategy best-of-n --strategy stage-beam --verifier p-true --sweep n=1,2,4,8 --budget tokens=2000 --out runs/beam`

    `structdecode compare examples/study/pocket.yaml --out runs/study`

    `accelerate launch --num_processes 8 -m structdecode compare study.yaml --out runs/study`

    Exit codes: 0 all done, 1 some questions failed on our side, 2 wrong usage or bad input, 130 interrupted.
    """
    from structdecode.evaluation import commands
    from structdecode.evaluation.shards import Shard

    options = {
        "strategies": strategy or [], "verifiers": verifier or [], "budget": budget, "sweep": sweep or [],
        "settings": set_ or [], "schema": schema,
    }  # fmt: skip
    source = {"source": data, "images": images, "split": split, "columns": column or [], "limit": limit}
    part = Shard.parse(shard) if shard else None
    try:
        failed = commands.compare(
            commands.study_of(study, options, source, model=model, judge=judge, seeds=seed or []), out, shard=part,
            concurrency=concurrency, quiet=quiet, command=sys.argv, device=device, dtype=dtype, engine=engine,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"structdecode: interrupted; the same command goes on with {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of `compare --shard`.")],
    out: Annotated[Path, typer.Option(help="The run directory to make.")],
) -> None:
    """Make one run of its shards, and its report; overlaps, gaps and different studies are named, with exit code 1.

    Example: `structdecode merge runs/shard-1 runs/shard-2 --out runs/study`
    """
    from structdecode.evaluation import commands, shards

    found = shards.problems(runs)
    for problem in found:
        print(f"structdecode: {problem}", file=sys.stderr)
    if found:
        raise typer.Exit(1)
    print(f"Merged {shards.merge(runs, out)} records into {out}")
    commands.write_report(out)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory of `compare` or `merge`, finished or not.")],
) -> None:
    """Write report.md, report.html and tables.json of a run again.

    Example: `structdecode report runs/study`
    """
    from structdecode.evaluation import commands
    from structdecode.evaluation.store import read_study

    read_study(run)
    if not commands.write_report(run):
        raise ConfigError("this installation has no reports")
    print(f"Wrote {run / 'report.md'} and {run / 'report.html'}")


@app.command()
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

    Exit codes: 0 every record is decided, 1 the API did not answer for some (the same command asks again), 2 wrong usage, bad input, or an API that takes no request, 3 stopped by --max-cost, 130 interrupted.
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


@app.command()
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

    _check_writable(out)
    options = Options(keep, only_correct, min_margin, by, labels)  # type: ignore[arg-type]
    done = write(
        source, to, out, options, schema=schema, images=image or (), answers=answer or (), render=render  # type: ignore[arg-type]
    )  # fmt: skip
    left = f" (without: {told(done.left_out)})" if done.left_out else ""
    print(f"Wrote {done.rows} rows from {done.searches} searches to {out}{left}")
    if to == "dpo" and render is None:
        print("Before DPOTrainer: --render CHECKPOINT, or training.export.preference_text (docs/rewards.md)")


@pocket.command()
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


@data.command("check")
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

    _check_writable(out)
    _check_writable(fix)
    report = check_command.run(
        path, images=images, model=model, schema=schema, max_length=max_length, fix=fix, out=out, workers=workers,
        as_json=as_json, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if report.errors:
        raise typer.Exit(1)


def _check_writable(path: Path | None) -> None:
    """Before any work is done: an unwritable place should not cost a search."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such directory: {path.parent}")


def main() -> None:
    """Entry point: our own errors become one line on stderr and exit code 2."""
    try:
        app()
    except StructdecodeError as error:
        print(f"structdecode: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.filename is None:
            raise
        print(f"structdecode: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
