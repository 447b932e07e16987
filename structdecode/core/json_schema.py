"""A JSON Schema (draft 2020-12) of a declared type, for editors and checks of files that `read_declared` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from structdecode.core.declared import is_required

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def json_schema(kind: Any, title: str) -> dict[str, Any]:
    """Of a dataclass; its fields may be dataclasses, tuples, mappings, unions, Literals and plain values.

    Keys that are no field are not allowed, and fields without a default are required.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_of(kind)}


def _of(kind: Any) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of(member) for member in inner]}
    if is_dataclass(kind):
        return _of_fields(kind)
    if origin is tuple:
        size = {} if inner[-1] is Ellipsis else {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "items": _of(inner[0]), **size}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inner[1])}
    return {}  # anything


def _of_fields(kind: Any) -> dict[str, Any]:
    hints, taken = get_type_hints(kind), [declared for declared in fields(kind) if declared.init]
    required = [f.name for f in taken if is_required(f)]
    properties = {f.name: {**_of(hints[f.name]), **_default(f.default)} for f in taken}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _default(value: Any) -> dict[str, Any]:
    if value is MISSING or value is None or not isinstance(value, str | int | float | bool | tuple):
        return {}
    return {"default": list(value) if isinstance(value, tuple) else value}
