"""Options that several commands have, each in one place."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Model = Annotated[str | None, typer.Option(help="Checkpoint directory or hub name; default: the pocket model.")]
Backend = Annotated[
    str | None, typer.Option(help="See `structdecode list backends`; or file.py:Name; default: transformers.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: CUDA where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="auto (default), float32, bfloat16 or float16.")]
Engine = Annotated[
    str | None, typer.Option(help="slots (default: one batch of all open rows) or plain (one request at a time).")
]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="First hold the engine against the model's own generate.")
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are not safetensors.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


def loading(
    backend: str | None,
    device: str | None,
    dtype: str | None,
    engine: str | None,
    check: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> dict[str, Any]:
    """What `load_backend` is told: of the options those that were given."""
    return {
        "backend": backend, "device": device, "dtype": dtype, "engine": engine, "check": None if check else False,
        "trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None,
    }  # fmt: skip
