"""One registry for the four kinds of plug-in. Built-ins and third parties come in by the same door: entry points.

A notebook registers by decorator instead:

>>> @verifier("shortest")
... def shortest(candidate):
...     return -len(candidate.text)
>>> "shortest" in names("verifiers")
True
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from structdecode.errors import ConfigError, StructdecodeError, UnknownNameError

Group = Literal["strategies", "verifiers", "backends", "schemas"]
GROUPS: tuple[Group, ...] = ("strategies", "verifiers", "backends", "schemas")
T = TypeVar("T")

_registered: dict[tuple[Group, str], Any] = {}


@cache
def _installed(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"structdecode.{group}")}


def names(group: Group) -> list[str]:
    """All known names of a group, loaded or not, sorted."""
    return sorted({*_installed(group), *(name for g, name in _registered if g == group)})


def load(group: Group, name: str) -> Any:
    """The class, function or schema of this name.

    Raises:
        UnknownNameError: no such plug-in; the message lists the known ones and the nearest.
        ConfigError: its package does not import; the message names it.
    """
    if (group, name) in _registered:
        return _registered[group, name]
    points = _installed(group)
    if name not in points:
        raise UnknownNameError(_singular(group), name, names(group))
    try:
        return points[name].load()
    except StructdecodeError:
        raise
    except Exception as error:
        distribution = points[name].dist
        package = distribution.name if distribution is not None else points[name].value
        raise ConfigError(
            f"{_singular(group)} {name!r} of package {package!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def name_of(group: Group, item: Any) -> str | None:
    """The name that a class, function or object was registered or installed under, without loading anything."""
    for (known, name), registered in _registered.items():
        if known == group and registered is item:
            return name
    place = f"{getattr(item, '__module__', None)}:{getattr(item, '__qualname__', None)}"
    return next((name for name, point in _installed(group).items() if point.value == place), None)


def load_all(group: Group) -> dict[str, Any]:
    """Every plug-in that loads, by name. A broken one is named in a warning and left out."""
    found = {}
    for name in names(group):
        try:
            found[name] = load(group, name)
        except ConfigError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def register(group: Group, name: str) -> Callable[[T], T]:
    """Decorator: makes something known under a name in this process, and returns it unchanged."""

    def decorate(item: T) -> T:
        _registered[group, name] = item
        return item

    return decorate


def strategy(name: str) -> Callable[[T], T]:
    return register("strategies", name)


def verifier(name: str) -> Callable[[T], T]:
    """For a verifier class, or for a plain function of a candidate (or of prompt and candidate)."""
    return register("verifiers", name)


def _singular(group: Group) -> str:
    return {"strategies": "strategy", "verifiers": "verifier", "backends": "backend", "schemas": "schema"}[group]


# ------------------------------------------------------------------ making instances from text settings


def build(group: Group, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Makes a strategy or verifier from its name and settings; texts are read as the fields' types.

    Raises:
        UnknownNameError: the plug-in or one of the settings is not known.
        ConfigError: a value is of the wrong type or out of range.
    """
    item = load(group, name)
    if inspect.isfunction(item) and group == "verifiers":
        return load("verifiers", "callable")(item)
    if not inspect.isclass(item):
        return item
    return configure(item, name, settings or {})


def configure(kind: type[T], name: str, settings: Mapping[str, Any]) -> T:
    """An instance of a dataclass from settings, each checked against its field's type."""
    types_of = field_types(kind)
    values = {}
    for key, value in settings.items():
        if key not in types_of:
            raise UnknownNameError(f"setting of {name!r}", key, types_of)
        values[key] = _coerce(value, types_of[key], f"{name}: {key}")
    required = [
        f.name for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    missing = [key for key in required if key not in values]
    if missing:
        raise ConfigError(f"{name!r} needs {', '.join(missing)}: add --set {missing[0]}=...")
    return kind(**values)


def field_types(kind: type) -> dict[str, Any]:
    """The settings of a plug-in class: its dataclass fields and their types."""
    if not dataclasses.is_dataclass(kind):
        return {}
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


def _coerce(value: Any, kind: Any, what: str) -> Any:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in options):
            return None
        for option in options:
            if option is not type(None):
                try:
                    return _coerce(value, option, what)
                except ConfigError:
                    continue
        raise ConfigError(f"{what} must be {_spell(kind)}, not {value!r}")
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{what} must be one of {', '.join(map(str, options))}, not {value!r}")
        return value
    if not isinstance(value, str) or kind is str:
        return value
    return _read(value, kind, what)


def _read(text: str, kind: Any, what: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
            raise ConfigError(f"{what} must be true or false, not {text!r}")
        return text.lower() in ("true", "yes", "1")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{what} must be {_spell(kind)}, not {text!r}") from None
    if isinstance(kind, type) and getattr(kind, "_is_protocol", False) and kind.__name__ == "Verifier":
        return build("verifiers", text)
    raise ConfigError(f"{what} cannot be given as text ({_spell(kind)}): use the Python interface")


def _spell(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    if typing.get_args(kind):
        return " or ".join(_spell(option) for option in typing.get_args(kind))
    return words.get(kind, getattr(kind, "__name__", str(kind)))
