"""The command line, put together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from structdecode.cli import new as new_plugin
from structdecode.cli import verifier as verifier_commands
from structdecode.cli.annotate import annotate
from structdecode.cli.compare import compare, merge, report
from structdecode.cli.data import check
from structdecode.cli.doctor import doctor
from structdecode.cli.export import export
from structdecode.cli.generate import generate
from structdecode.cli.list import list_
from structdecode.cli.pocket import sample
from structdecode.cli.record import merge_pools, record
from structdecode.cli.schema import schema
from structdecode.cli.select import select
from structdecode.cli.train import merge_adapters, train
from structdecode.cli.train_verifier import train_verifier
from structdecode.cli.view import view
from structdecode.core.errors import StructdecodeError
from structdecode.core.paths import FULL
from structdecode.core.reading import one_line

app = typer.Typer(
    help="Staged decoding of vision-language models: any schema, any strategy, any verifier.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False,
)  # fmt: skip
pocket = typer.Typer(help="The embedded model's little world.", no_args_is_help=True)
pocket.command()(sample)

data = typer.Typer(help="Data to train on.", no_args_is_help=True)
data.command()(check)

verifier = typer.Typer(help="Calibrate and audit verifiers on a run whose answers are known.", no_args_is_help=True)
verifier.command()(verifier_commands.fit)
verifier.command()(verifier_commands.audit)

new = typer.Typer(help="A package with a plug-in of one's own, to begin with.", no_args_is_help=True)
new.command()(new_plugin.verifier)
new.command()(new_plugin.strategy)

_COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate, "list": list_, "view": view, "doctor": doctor,
    "compare": compare, "merge": merge, "report": report, "record": record, "merge-pools": merge_pools, "select": select,
    "train": train, "export": export, "annotate": annotate, "merge-adapters": merge_adapters,
    "train-verifier": train_verifier, "schema": schema,
}  # fmt: skip
for name, command in _COMMANDS.items():
    app.command(name)(command)
app.add_typer(pocket, name="pocket")
app.add_typer(data, name="data")
app.add_typer(new, name="new")
app.add_typer(verifier, name="verifier")


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
