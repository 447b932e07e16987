"""Has parsed JSON the shape that type hints say? For files that may come from strangers, or are damaged."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Fault = tuple[str, str]
"""Where in the value, and what is wrong there."""
Check = Callable[[Any], Fault | None]

_NAMES: dict[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null", None: "null",
    dict: "a mapping", list: "a list",
}  # fmt: skip


def misfit(value: Any, hint: Any) -> str | None:
    """The first thing that is not as ``hint`` says, in words; None where all of it is.

    Args:
        hint: of ``Any``, ``None``, the scalars, ``Literal``, unions, sequences, mappings, and TypedDicts or dataclasses
            of these. A float may be whole but not NaN or infinite, a whole number is no bool and within a float's range, and keys that a TypedDict
            or dataclass does not have are passed over.
    """
    found = _check(hint)(value)
    return None if found is None else f"{found[0].lstrip('.') or 'it'} {found[1]}"


@cache
def _check(hint: Any) -> Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: None
    if origin in (Union, types.UnionType):
        return _any_of(arguments)
    if origin is Literal:
        return lambda value: None if value in arguments else _wrong(value, " or ".join(map(repr, arguments)))
    if is_typeddict(hint) or is_dataclass(hint):
        return _with_fields(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _each(dict, arguments[1])
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _each(list, arguments[0])
    return lambda value: None if _is(value, hint) else _wrong(value, _name(hint))


def _any_of(hints: Sequence[Any]) -> Check:
    checks, wanted = [_check(hint) for hint in hints], " or ".join(dict.fromkeys(map(_name, hints)))
    return lambda value: None if any(check(value) is None for check in checks) else _wrong(value, wanted)


def _each(kind: type, hint: Any) -> Check:
    check, exact = _check(hint), {int: int, str: str}.get(hint)

    def checked(value: Any) -> Fault | None:
        if not isinstance(value, dict | list) or not isinstance(value, kind):
            return _wrong(value, _NAMES[kind])
        for key, entry in _items(value):
            if type(entry) is not exact and (found := check(entry)) is not None:
                return f"[{key!r:.60}]{found[0]}", found[1]
        return None

    return checked


def _items(value: dict[Any, Any] | list[Any]) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _with_fields(hint: Any) -> Check:
    known = [(name, _check(kind), required) for name, kind, required in _fields(hint)]

    def checked(value: Any) -> Fault | None:
        if not isinstance(value, dict):
            return _wrong(value, _NAMES[dict])
        for name, check, required in known:
            if name in value:
                if (found := check(value[name])) is not None:
                    return f".{name}{found[0]}", found[1]
            elif required:
                return "", f"has no {name!r}"
        return None

    return checked


def _fields(hint: Any) -> list[tuple[str, Any, bool]]:
    """Name, what it holds, and whether it has to be there."""
    kinds = get_type_hints(hint, include_extras=True)
    if is_typeddict(hint):
        return [(name, _bare(kind), get_origin(kind) is not NotRequired) for name, kind in kinds.items()]
    return [(f.name, kinds[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(hint)]


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is NotRequired else kind


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if kind is float or kind is int:
        return isinstance(value, int | kind) and _finite(value)
    return isinstance(value, kind)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _name(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if is_typeddict(origin) or is_dataclass(origin) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _NAMES[dict]
    if isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str:
        return _NAMES[list]
    return _NAMES.get(origin, str(hint))


def _wrong(value: Any, wanted: str) -> Fault:
    shown = repr(value) if not isinstance(value, dict | list) else f"{_NAMES[type(value)]} of {len(value)}"
    return "", f"is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {wanted}"
