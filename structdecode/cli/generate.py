"""``structdecode generate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from structdecode.cli import options, view
from structdecode.core.paths import check_writable

if TYPE_CHECKING:
    from structdecode.core.protocols import Backend
    from structdecode.core.results import Result


BUDGET_SPENT = 3


def generate(
    question: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[list[Path] | None, typer.Option(help="A picture; may be given several times.")] = None,
    model: options.Model = None,
    schema: Annotated[str | None, typer.Option(help="A schema's name, a .yaml or .json file, or file.py:NAME.")] = None,
    strategy: Annotated[str | None, typer.Option(help="See `structdecode list strategies`; or file.py:Name.")] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="See `structdecode list verifiers`; file.py:Name; or as YAML: {ensemble: {members: {...}}}."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the strategy; verifier.key=value; verifier.a.b=value."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named settings: llava-o1-paper, or a YAML file.")] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="Limits: tokens=2000,seconds=30 (also prefill_tokens, model_calls, verifier_calls, dollars)."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    show_stages: Annotated[bool, typer.Option("--show-stages", help="Print the hidden stages too.")] = False,
    as_json: options.AsJson = False,
    trace: Annotated[Path | None, typer.Option(help="Write the search tree here, for `structdecode view`.")] = None,
    backend: options.Backend = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    check: options.Check = True,
    trust_remote_code: options.TrustRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Answer a question about a picture, stage by stage.

    Examples:
    `structdecode generate --image photo.jpg --question "How many red squares are there?"`

    `structdecode generate --image photo.jpg --question "..." --strategy stage-beam --verifier p-true --set candidates=8`

    `structdecode generate --image photo.jpg --question "..." --verifier '{ensemble: {members: {a: log-prob, b: p-true}}}' --set verifier.weights.a=2`

    `structdecode generate --image photo.jpg --question "..." --verifier my_verifier.py:Mine`

    `structdecode generate --image photo.jpg --question "..." --model Xkev/Llama-3.2V-11B-cot --preset llava-o1-paper`

    Exit codes: 0 answered, 2 wrong usage or bad input, 3 stopped by the budget before an answer.
    """
    from structdecode.core.assembly import make_strategy
    from structdecode.core.budget import Budget
    from structdecode.core.lookup import find_schema, load_backend
    from structdecode.core.reading import LONGEST, short_repr
    from structdecode.core.types import Prompt

    check_writable(trace)
    prompt = Prompt(question, list(image or []))
    made, verifier_name, strategy_name = make_strategy(strategy, verifier, set_ or [], preset)
    chosen_schema = find_schema(schema) if schema else None
    limits = Budget.parse(budget)
    loaded = load_backend(
        model, **options.loading(backend, device, dtype, engine, check, trust_remote_code, allow_pickle)
    )
    search = {
        "schema": chosen_schema,
        "strategy": made,
        "budget": limits,
        "seed": seed,
        "trace_tokens": trace is not None,
    }
    result = _run(prompt, loaded, search, settings=short_repr(made, LONGEST), as_json=as_json, show_stages=show_stages)
    if trace is not None:
        result.trace.save(trace)
    if as_json:
        print(json.dumps(as_object(result, strategy_name, verifier_name), ensure_ascii=False))
        for warning in result.warnings:
            print(f"structdecode: warning: {warning}", file=sys.stderr)
    elif trace is not None:
        print(f"Trace: {trace}  ({view.command(trace, image or [])})")
    if result.stopped_by and not result.answer:
        print(f"structdecode: stopped by the budget ({result.stopped_by}) before an answer", file=sys.stderr)
        raise typer.Exit(BUDGET_SPENT)


def _run(
    prompt: Any, backend: Backend, search: dict[str, Any], *, settings: str, as_json: bool, show_stages: bool
) -> Result:
    from rich.console import Console

    from structdecode.cli.terminal import LiveStages, show_result
    from structdecode.core.engine import decode

    if as_json:
        return decode(prompt, backend=backend, **search)
    console = Console(highlight=False)
    with LiveStages(console) as live:
        result = decode(prompt, backend=backend, observer=live, **search)
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
