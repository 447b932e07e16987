"""Plain values, as YAML has them, read by declared types: each mistake is named by its field's path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.problems import shown

T = TypeVar("T")


def read_declared(kind: type[T], content: Any, where: str, what: str, path: str = "") -> T:
    """A dataclass from a mapping of its fields; fields that are dataclasses, tuples, mappings and unions likewise.

    Args:
        where: the file (or the option) that the content is from. what: what the content is, for messages.
        path: of the content in the file, where it is not all of it: ``cells[1]``.

    Raises:
        ConfigError: a key is not a field, a field is missing, or a value is of another type or out of its range
            (what ``__post_init__`` raises).
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{_place(where, path)}: a {what} is a mapping, not {shown(content)}")
    known = {name: hint for name, hint in get_type_hints(kind).items() if _taken(kind, name)}
    for key in content:
        if key not in known:
            raise UnknownNameError(f"key of a {what} in {_place(where, path)}", str(key), known)
    values = {key: _read(known[key], value, where, _inside(path, key)) for key, value in content.items()}
    for name, declared in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        if name in known and name not in values and is_required(declared):
            raise ConfigError(f"{where}: {_inside(path, name)} is missing: {wanted(known[name])} is wanted")
    try:
        return kind(**values)
    except ConfigError as error:  # of its ranges
        raise ConfigError(f"{_place(where, path)}: {error}") from None


def wanted(kind: Any) -> str:
    """A declared type, for a message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(wanted, inner)))
    if kind is NoneType:
        return "nothing"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}{wanted(inner[0])}"
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a mapping"
    return str(getattr(kind, "__name__", kind))


def _read(kind: Any, value: Any, where: str, path: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in inner):
        return value
    if origin in (Union, UnionType):
        return _read_union(kind, value, where, path)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        return read_declared(kind, value, where, "mapping", path)
    if origin is tuple and isinstance(value, list | tuple) and (inner[-1] is Ellipsis or len(value) == len(inner)):
        return tuple(_read(inner[0], part, where, f"{path}[{index}]") for index, part in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _read(inner[1], part, where, _inside(path, key)) for key, part in value.items()}
    if kind is float and (number := _as_float(value)) is not None:
        return number
    if _is_plain(kind, value):
        return value
    raise ConfigError(f"{where}: {path} is {shown(value)}: {wanted(kind)} is wanted")


def _read_union(kind: Any, value: Any, where: str, path: str) -> Any:
    """By the first member that takes it; a list or mapping that only one could take is complained of by that one."""
    fitting = [member for member in get_args(kind) if _shape(member) is _shape_of(value)]
    for member in fitting:
        try:
            return _read(member, value, where, path)
        except ConfigError:
            if len(fitting) == 1 and _shape(member) is not None:
                raise
    raise ConfigError(f"{where}: {path} is {shown(value)}: {wanted(kind)} is wanted")


def _shape(kind: Any) -> type | None:
    origin = get_origin(kind)
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return dict
    return list if origin is tuple else None


def _shape_of(value: Any) -> type | None:
    return dict if isinstance(value, Mapping) else list if isinstance(value, list | tuple) else None


def _is_plain(kind: Any, value: Any) -> bool:
    if isinstance(value, bool) and kind is int:
        return False
    return kind in (int, str, bool, NoneType) and isinstance(value, kind)


def _as_float(value: Any) -> float | None:
    """YAML reads 1e-5 (no point in it) as a text."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _taken(kind: type, name: str) -> bool:
    declared = kind.__dataclass_fields__.get(name)  # type: ignore[attr-defined]
    return declared is not None and declared.init


def is_required(declared: Any) -> bool:
    """Whether a dataclass's field has no default."""
    return declared.default is MISSING and declared.default_factory is MISSING


def _inside(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _place(where: str, path: str) -> str:
    return f"{where}: {path}" if path else where
