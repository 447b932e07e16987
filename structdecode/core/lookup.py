"""From a name to a schema, a checkpoint or a backend."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, cast

from structdecode.core import registry
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Backend
from structdecode.core.reading import short_repr
from structdecode.core.schemas import load_schema
from structdecode.core.types import Schema

OWN = "transformers"
"""The backend of a command where none is named."""

EMBEDDED = "pocket"
"""The checkpoint that comes with the package, and that a command uses where no model is named."""


def find_schema(name: str) -> Schema:
    """A schema by its registered name, at ``file.py:NAME`` or ``package.module:NAME``, or from a ``.yaml`` or ``.json`` file."""
    if name.endswith((".yaml", ".yml", ".json")):
        return load_schema(name)
    schema = registry.load("schemas", name)
    if not isinstance(schema, Schema):
        raise ConfigError(f"schema {name!r} is a {type(schema).__name__}, not a Schema")
    return schema


def find_checkpoint(name: str) -> str:
    """The directory of a checkpoint that a package brings under this name; any other name is given back as it is."""
    return str(registry.load("checkpoints", name)()) if name in registry.names("checkpoints") else name


def load_backend(model: str | os.PathLike[str] | None = None, *, backend: str | None = None, **options: Any) -> Backend:
    """A model in a backend, by names.

    Args:
        model: a directory, a hub name or a registered checkpoint; None is the embedded one, whose engine the tests hold
            against its own ``generate``, so it is not checked again.
        backend: a registered name, ``file.py:Name`` or ``package.module:Name``: a class with ``load``, a function of the
            model's name, or an object that has its model; None is ``transformers``.
        options: of ``load``; those that are None are left to it.

    Raises:
        ConfigError: the backend is unknown, has no ``load``, or takes no such option.
    """
    name = EMBEDDED if model is None else os.fspath(model)
    kind = registry.load("backends", backend or OWN)
    given = {key: value for key, value in options.items() if value is not None}
    if backend in (None, OWN) and name == EMBEDDED:
        given["check"] = False
    if hasattr(kind, "open") and not isinstance(kind, type):
        taken = [*(["model"] if model is not None else []), *given]
        if taken:
            raise ConfigError(f"backend {backend!r} has its model: leave {', '.join(map(_option, taken))} out")
        return cast(Backend, kind)
    load = getattr(kind, "load", None if isinstance(kind, type) else kind)
    if load is None:
        raise ConfigError(f"backend {backend!r} loads no model by name: make one in Python")
    _check_taken(load, given, str(backend))
    made = load(find_checkpoint(name), **given)
    if not hasattr(made, "open"):
        raise ConfigError(f"backend {backend!r} gives {short_repr(made, 80)}, which has no method 'open'")
    return cast(Backend, made)


def _check_taken(load: Any, given: Mapping[str, Any], backend: str) -> None:
    parameters = inspect.signature(load).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names = {parameter.name for parameter in parameters}
        for key in given:
            if key not in names:
                raise ConfigError(f"backend {backend!r} takes no {key}: leave {_option(key)} out")


def _option(name: str) -> str:
    return "--no-check" if name == "check" else f"--{name.replace('_', '-')}"
