"""From a name to a schema, a checkpoint or a backend."""

from __future__ import annotations

import os
from typing import Any, cast

from structdecode.core import registry
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Backend
from structdecode.core.schemas import load_schema
from structdecode.core.types import Schema

EMBEDDED = "pocket"
"""The checkpoint that comes with the package, and that a command uses where no model is named."""


def find_schema(name: str) -> Schema:
    """A schema by its registered name, or from a ``.yaml`` or ``.json`` file."""
    if name.endswith((".yaml", ".yml", ".json")):
        return load_schema(name)
    schema = registry.load("schemas", name)
    if not isinstance(schema, Schema):
        raise ConfigError(f"schema {name!r} is a {type(schema).__name__}, not a Schema")
    return schema


def find_checkpoint(name: str) -> str:
    """The directory of a checkpoint that a package brings under this name; any other name is given back as it is."""
    return str(registry.load("checkpoints", name)()) if name in registry.names("checkpoints") else name


def load_backend(
    model: str | os.PathLike[str] | None = None, *, backend: str = "transformers", **options: Any
) -> Backend:
    """A model in a backend, by names.

    Args:
        model: a directory, a hub name or a registered checkpoint; None is the embedded one, whose engine the tests hold
            against its own ``generate``, so it is not checked again.
        backend: a registered name. options: of its ``load``.

    Raises:
        ConfigError: the backend is unknown, or has no ``load``.
    """
    name = EMBEDDED if model is None else os.fspath(model)
    if name == EMBEDDED and backend == "transformers":
        options["check"] = False
    kind = registry.load("backends", backend)
    if not hasattr(kind, "load"):
        raise ConfigError(f"backend {backend!r} loads no model by name: make one in Python")
    return cast(Backend, kind.load(find_checkpoint(name), **options))
