"""One registry for all kinds of plug-in. Built-ins and third parties come in by the same door: entry points.

A notebook registers by decorator instead:

>>> @verifier("shortest")
... def shortest(candidate):
...     return -len(candidate.text)
>>> "shortest" in names("verifiers")
True
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from structdecode.core.errors import ConfigError, StructdecodeError, UnknownNameError
from structdecode.core.places import is_place, load_place, module_name
from structdecode.core.reading import short_repr

Group = Literal["strategies", "verifiers", "backends", "schemas", "checkpoints", "selectors"]
GROUPS: tuple[Group, ...] = get_args(Group)
T = TypeVar("T")

_METHODS = {
    "strategies": ("__call__",),
    "verifiers": ("score", "compare"),
    "backends": ("load", "open"),
    "selectors": ("__call__",),
}
"""Of which a class or an object of a group has one."""

_registered: dict[tuple[Group, str], Any] = {}


@cache
def _installed(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"structdecode.{group}")}


def names(group: Group) -> list[str]:
    """All known names of a group, loaded or not, sorted."""
    return sorted({*_installed(group), *(name for g, name in _registered if g == group)})


def load(group: Group, name: str) -> Any:
    """The class, function or object of this name; ``file.py:Name`` and ``package.module:Name`` need no registration.

    Raises:
        UnknownNameError: no such plug-in; the message lists the known ones and the nearest.
        ConfigError: its package or file does not import, or holds something else; the message names it.
    """
    if (group, name) in _registered:
        return _registered[group, name]
    points = _installed(group)
    if name not in points and is_place(name):
        return _checked(group, name, load_place(name, _singular(group)))
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


def _checked(group: Group, name: str, item: Any) -> Any:
    """What was found at a place, if it can be what it is asked to be; else `ConfigError`."""
    try:
        fits = _fits(group, item)
    except Exception as error:  # of a __getattr__ of its own
        raise ConfigError(
            f"{_singular(group)} {name!r} cannot be looked at: {type(error).__name__}: {error}"
        ) from error
    if not fits:
        methods = _METHODS.get(group)
        wanted = "a Schema" if methods is None else f"a class or object with {' or '.join(methods)}, or a function"
        raise ConfigError(f"{_singular(group)} {name!r} is {short_repr(item, 80)}, not {wanted}")
    return item


def _fits(group: Group, item: Any) -> bool:
    methods = _METHODS.get(group, ())
    if group == "schemas":
        return any(kind.__name__ == "Schema" for kind in type(item).__mro__)
    if isinstance(item, type):
        return any(method in vars(kind) for kind in item.__mro__ for method in methods)
    return callable(item) or any(callable(getattr(item, method, None)) for method in methods)


def name_of(group: Group, item: Any) -> str | None:
    """The name that a class, function or object was registered or installed under, without loading anything."""
    for (known, name), registered in _registered.items():
        if known == group and registered is item:
            return name
    return next((name for name, point in _installed(group).items() if point.value == place_of(item)), None)


def name_at(group: Group, place: str) -> str | None:
    """The name of what stands at "module:qualname"."""
    known = [(name, place_of(item)) for (g, name), item in _registered.items() if g == group]
    known += [(name, point.value) for name, point in _installed(group).items()]
    return next((name for name, there in known if there == place), None)


def place_of(item: Any) -> str:
    """Where a class or function is: "module:qualname"; of a file's the file's name, wherever it lies."""
    return f"{module_name(str(getattr(item, '__module__', None)))}:{getattr(item, '__qualname__', None)}"


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
    return {
        "strategies": "strategy",
        "verifiers": "verifier",
        "backends": "backend",
        "schemas": "schema",
        "checkpoints": "checkpoint",
        "selectors": "selector",
    }[group]
