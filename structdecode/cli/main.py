"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from structdecode.cli import evaluation, training
from structdecode.core.errors import StructdecodeError
from structdecode.core.paths import FULL, check_writable, write_whole
from structdecode.core.reading import one_line

if TYPE_CHECKING:
    from structdecode.core.protocols import Backend
    from structdecode.core.results import Result

app = typer.Typer(
    help="Staged decoding of vision-language models: any schema, any strategy, any verifier.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False,
)  # fmt: skip
pocket = typer.Typer(help="The embedded model's little world.", no_args_is_help=True)
app.add_typer(pocket, name="pocket")

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
    verifier: Annotated[
        str | None, typer.Option(help="See `structdecode list verifiers`; or as YAML: {ensemble: {members: {...}}}.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the strategy; verifier.key=value; verifier.a.b=value."),
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
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="First hold the engine against the model's own generate.")
    ] = True,
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

    `structdecode generate --image photo.jpg --question "..." --verifier '{ensemble: {members: {a: log-prob, b: p-true}}}' --set verifier.weights.a=2`

    `structdecode generate --image photo.jpg --question "..." --model Xkev/Llama-3.2V-11B-cot --preset llava-o1-paper`

    Exit codes: 0 answered, 2 wrong usage or bad input, 3 stopped by the budget before an answer.
    """
    from structdecode.core.assembly import make_strategy
    from structdecode.core.budget import Budget
    from structdecode.core.lookup import find_schema, load_backend
    from structdecode.core.types import Prompt

    check_writable(trace)
    prompt = Prompt(question, list(image or []))
    made, verifier_name, strategy_name = make_strategy(strategy, verifier, set_ or [], preset)
    chosen_schema = find_schema(schema) if schema else None
    limits = Budget.parse(budget)
    backend = load_backend(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, engine=engine,
        check=check,
    )  # fmt: skip
    options = {"schema": chosen_schema, "strategy": made, "budget": limits, "seed": seed}
    result = _run(prompt, backend, options, settings=repr(made), as_json=as_json, show_stages=show_stages)
    if trace is not None:
        result.trace.save(trace)
    if as_json:
        print(json.dumps(as_object(result, strategy_name, verifier_name), ensure_ascii=False))
        for warning in result.warnings:
            print(f"structdecode: warning: {warning}", file=sys.stderr)
    elif trace is not None:
        print(f"Trace: {trace}  (structdecode view {trace})")
    if result.stopped_by and not result.answer:
        print(f"structdecode: stopped by the budget ({result.stopped_by}) before an answer", file=sys.stderr)
        raise typer.Exit(BUDGET_SPENT)


def _run(
    prompt: Any, backend: Backend, options: dict[str, Any], *, settings: str, as_json: bool, show_stages: bool
) -> Result:
    from rich.console import Console

    from structdecode.cli.terminal import LiveStages, show_result
    from structdecode.core.engine import decode

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
                "path": list(r.candidate.path), "draws": r.draws, "text": r.candidate.text, "stages": dict(r.candidate.stages),
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
    from structdecode.core import registry
    from structdecode.core.errors import UnknownNameError

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
            if (
                field.init
                and field.default is not dataclasses.MISSING
                and isinstance(field.default, str | int | float | type(None))
            ):
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
    from structdecode.core.trace import Trace
    from structdecode.core.view import render

    target = out or trace.with_suffix(".html")
    check_writable(target)
    write_whole(target, render(Trace.load(trace)))
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
    from structdecode.cli.doctor import examine

    findings = examine(model, image, schema)
    for finding in findings:
        print(
            f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}" + ("" if finding.ok else f"\n     -> {finding.remedy}")
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


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


evaluation.register(app)
training.register(app)


def main() -> None:
    """Entry point: our own errors, and the system's about files, become one line on stderr and exit code 2."""
    try:
        app()
    except StructdecodeError as error:
        _end(str(error))
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        _end(f"{error.filename or 'writing failed'}: {error.strerror}" + (_RESUME if error.errno in FULL else ""))
    except Exception as error:
        if not any(os.strerror(number) in str(error) for number in FULL):
            raise
        _end(f"writing failed: {error}{_RESUME}")  # safetensors' own kind of error


_RESUME = ": what was written whole is kept: make room and give the same command again"


def _end(message: str) -> NoReturn:
    print(f"structdecode: {one_line(message)}", file=sys.stderr)
    raise SystemExit(2) from None
