"""What a verifier goes by in tables and traces."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from structdecode.core.registry import name_of


def label_of(verifier: object, name: str | None = None) -> str:
    """What a verifier goes by in tables and traces: its name, with the verifiers that it is made of.

    Such as ``ensemble(a=log-prob, b=p-true)``. The name is ``name``, else that under which the object or its class was
    registered; of a function its registered name or its own; else the class's.
    """
    kind = name_of("verifiers", type(verifier))
    if name is None:
        name = name_of("verifiers", verifier) or kind or type(verifier).__name__
        if name == "callable":
            function = getattr(verifier, "function", None)
            name = name_of("verifiers", function) or _function_name(function)
    parts = ", ".join(_parts(verifier))
    return f"{name}({parts})" if parts else name


def _function_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _parts(verifier: object) -> list[str]:
    """Of each verifier in a verifier's settings its label, behind its key where that says something else."""
    labels = [(key, label_of(item)) for key, item in verifiers_in(verifier)]
    return [label if key in (None, label) else f"{key}={label}" for key, label in labels]


def verifiers_in(verifier: object) -> Iterator[tuple[str | None, Any]]:
    """The verifiers among a verifier's settings, each with its key: a setting's or a mapping's; None in a list."""
    for field in dataclasses.fields(verifier) if dataclasses.is_dataclass(verifier) else ():
        value = getattr(verifier, field.name, None)
        held: Iterable[tuple[str | None, Any]] = [(field.name, value)]
        if isinstance(value, Mapping):
            held = value.items()
        elif isinstance(value, list | tuple):
            held = [(None, item) for item in value]
        yield from ((key, item) for key, item in held if is_verifier(item))


def is_verifier(value: object) -> bool:
    """Whether it is an object that scores or compares."""
    return not isinstance(value, type) and any(callable(getattr(value, name, None)) for name in ("score", "compare"))
