"""What a verifier goes by in tables and traces."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
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
    found = []
    for key in (f.name for f in dataclasses.fields(verifier)) if dataclasses.is_dataclass(verifier) else ():
        value = getattr(verifier, key, None)
        held = (
            value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        for name, item in held:
            if is_verifier(item):
                label = label_of(item)
                found.append(label if name == label or not isinstance(value, Mapping) else f"{name}={label}")
        if is_verifier(value):
            found.append(f"{key}={label_of(value)}")
    return found


def is_verifier(value: object) -> bool:
    """Whether it is an object that scores or compares."""
    return not isinstance(value, type) and any(callable(getattr(value, name, None)) for name in ("score", "compare"))
