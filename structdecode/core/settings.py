"""Instances of strategies and verifiers from settings, each of which is checked against its field's type."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from structdecode.core.declared import is_required
from structdecode.core.errors import ConfigError, StructdecodeError, UnknownNameError
from structdecode.core.labels import is_verifier
from structdecode.core.reading import cut, one_line, parse_json, parse_yaml, short_repr
from structdecode.core.registry import Group, load, name_of, names

T = TypeVar("T")

_NESTED: dict[str, tuple[Group, str]] = {
    "Verifier": ("verifiers", "score"), "PairwiseJudge": ("verifiers", "compare"), "Selector": ("selectors", "__call__"),
}  # fmt: skip
"""Protocols whose implementations a setting may name: where they are registered, and a method that they have."""


def build(group: Group, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Makes a strategy or verifier from its name and settings, which are read as the fields' types.

    A setting that is a verifier, or a mapping or list of verifiers, may be given by name or as `verifier_from` reads
    it, however deep: ``build("verifiers", "ensemble", {"members": {"a": "log-prob", "b": {"rule": {"pattern": "7"}}}})``.
    Texts are read too, as a command line has them: ``{"members": "{a: log-prob, b: p-true}"}``, and keys with dots
    reach into settings: ``{"members.a": "log-prob", "members.a.scope": "stage"}``.

    Raises:
        UnknownNameError: the plug-in or one of the settings is not known.
        ConfigError: a value is of the wrong type or out of range; the message says where.
    """
    item = load(group, name)
    if inspect.isclass(item):
        return configure(item, name, settings or {})
    if not settings:
        return load("verifiers", "callable")(item) if group == "verifiers" and not is_verifier(item) else item
    own = {key: getattr(item, key) for key in field_types(item)}
    if not own:
        raise UnknownNameError(f"setting of {name!r}", next(iter(settings)), ())
    return configure(type(item), name, {**own, **settings})


def verifier_from(given: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """A verifier from a name, from ``{name: settings}`` or ``{"name": name, setting: value, ...}``, or from such text.

    Args:
        given: the verifier; an object that is one already is returned as it is.
        settings: more settings, over those that are given with the name.

    Raises:
        ConfigError: as `build`.
    """
    spec = from_text(given) if isinstance(given, str) else given
    if isinstance(spec, Mapping | list | str):
        return _named("verifiers", spec, settings)
    if settings:
        raise ConfigError(f"settings ({', '.join(settings)}) go with a verifier's name, not with {spec!r:.60}")
    if not is_verifier(spec):
        raise ConfigError(f"a verifier is a name, {{name: settings}} or an object that scores, not {_shown(spec)}")
    return spec


def selector_from(given: Any) -> Any:
    """A selector from a name, ``{name: settings}`` or such text, as `verifier_from`; an object that is one is returned as it is.

    Raises:
        ConfigError: as `build`.
    """
    spec = from_text(given) if isinstance(given, str) else given
    return _named("selectors", spec) if isinstance(spec, Mapping | list | str) else spec


def selectors_by_name() -> list[str]:
    """Registered selectors that need no setting."""
    kinds = {name: load("selectors", name) for name in names("selectors")}
    return [
        name
        for name, kind in kinds.items()
        if not (dataclasses.is_dataclass(kind) and any(f.init and is_required(f) for f in dataclasses.fields(kind)))
    ]


def _named(group: Group, spec: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """What a name, or a name with settings, says."""
    name, own = (spec, {}) if isinstance(spec, str) else name_and_settings(spec)
    return build(group, name, {**own, **(settings or {})})


def name_of_spec(given: str | Mapping[str, Any]) -> str:
    """The name that is given in one of the forms of `verifier_from`."""
    spec = from_text(given) if isinstance(given, str) else given
    return spec if isinstance(spec, str) else name_and_settings(spec)[0]


def name_and_settings(spec: Any) -> tuple[str, dict[str, Any]]:
    """The name and the settings of ``{name: settings}`` or ``{"name": name, setting: value, ...}``.

    Raises:
        ConfigError: it is neither.
    """
    name = spec.get("name") if isinstance(spec, Mapping) else None
    if isinstance(name, str):
        return name, {key: value for key, value in spec.items() if key != "name"}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, own),) = spec.items()
        if isinstance(name, str) and (own is None or isinstance(own, Mapping)):
            return name, dict(own or {})
    raise ConfigError(f"a verifier is a name, {{name: settings}} or a mapping with 'name', not {short_repr(spec)}")


def assignments(texts: Sequence[str], option: str = "--set") -> dict[str, str]:
    """``key=value`` texts of a command line's option as a mapping; the last of a key counts.

    Raises:
        ConfigError: one has no key, or no ``=``.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} takes key=value, not {text!r}")
        found[key] = value
    return found


def from_text(text: str) -> Any:
    """What a text says that is a mapping or a list as YAML writes them on one line; any other text as it is.

    Raises:
        ConfigError: it begins as one and is none. MissingExtraError: it is not JSON, and PyYAML is not installed.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{text!r:.200} is not a mapping or list: {error}") from None


def _nested(settings: Mapping[str, Any], kind_of: Callable[[str], Any]) -> dict[str, Any]:
    """Keys with dots as mappings: over the settings of the verifier that a key names, or into the mapping that it is."""
    found: dict[str, Any] = {key: value for key, value in settings.items() if "." not in key}
    for key, value in settings.items():
        head, dot, rest = key.partition(".")
        if not dot:
            continue
        below = from_text(given) if isinstance(given := found.get(head, {}), str) else given
        if _takes_plug_in(kind_of(head)) and below:
            name, own = name_and_settings({"name": below} if isinstance(below, str) else below)
            below = {"name": name, **own}
        if not isinstance(below, Mapping):
            raise ConfigError(f"{head} is {short_repr(below)}, so there is no {key!r}")
        found[head] = {**below, rest: value}
    return found


def _takes_plug_in(kind: Any) -> bool:
    return any(_is_protocol(option, *_NESTED) for option in (kind, *_options(kind)))


def _options(kind: Any) -> tuple[Any, ...]:
    """Of a union its members."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()


def configure(kind: type[T], name: str, settings: Mapping[str, Any]) -> T:
    """An instance of a dataclass from settings, each checked against its field's type; see `build`."""
    types_of = field_types(kind)
    values = {}
    for key, value in _nested(settings, types_of.get).items():
        if key not in types_of:
            raise UnknownNameError(f"setting of {name!r}", key, types_of)
        values[key] = _coerce(value, types_of[key], f"{name}: {key}")
    required = [
        f.name for f in (dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ())
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    missing = [key for key in required if key not in values]
    if missing:
        raise ConfigError(f"{name!r} needs {', '.join(missing)}: add --set {missing[0]}=...")
    try:
        return kind(**values)
    except StructdecodeError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name!r} cannot be made: {type(error).__name__}: {cut(one_line(str(error)), 300)}"
        ) from error


def field_types(item: Any) -> dict[str, Any]:
    """The settings of a plug-in, a class or an object of one: its dataclass fields and their types."""
    kind = item if isinstance(item, type) else type(item)
    if not dataclasses.is_dataclass(kind):
        return {}
    hints = _hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def check_settings(settings: Any, name: str = "") -> None:
    """For ``__post_init__``: what is made from Python is held to its fields' types as a command line is.

    Texts are not read as numbers. Numbers of other libraries become Python's own, a verifier's name the verifier.

    Args:
        name: what messages call it; default: the name that its class is registered under.

    Raises:
        ConfigError: naming the first field that holds something else.
    """
    kind = type(settings)
    named = (found for group in ("strategies", "verifiers", "selectors") if (found := name_of(group, kind)) is not None)
    name = name or next(named, kind.__name__)
    for key, hint in field_types(kind).items():
        object.__setattr__(settings, key, _coerce(getattr(settings, key), hint, f"{name}: {key}", texts=False))


def _coerce(value: Any, kind: Any, what: str, *, texts: bool = True) -> Any:
    """A value as its type has it. ``texts``: it may be written as a command line has it."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, kind, what, texts)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{what} must be one of {', '.join(map(str, options))}, not {short_repr(value)}")
        return value
    if _is_protocol(kind, *_NESTED):
        return _plug_in(value, kind, what)
    if isinstance(origin, type) and issubclass(origin, Mapping) and not isinstance(value, Mapping | str):
        raise ConfigError(f"{what} must be a mapping, not {short_repr(value)}")
    if isinstance(origin, type) and issubclass(origin, Mapping | list | tuple | Sequence):
        return _items(value, kind, what, texts)
    if not isinstance(value, str) or not texts:
        return _scalar(value, kind, what, texts)
    return value if kind is str else _read(value, kind, what)


def _one_of(value: Any, kind: Any, what: str, texts: bool) -> Any:
    options = typing.get_args(kind)
    none = value is None or (texts and isinstance(value, str) and value.lower() == "none")
    if none and type(None) in options:
        return None
    others = [option for option in options if option is not type(None)]
    alone = len(others) == 1 and not isinstance(others[0], type)
    if alone or _is_protocol(others[0], *_NESTED):
        return _coerce(value, others[0], what, texts=texts)  # says what is wrong with it
    for option in others:
        try:
            return _coerce(value, option, what, texts=texts)
        except ConfigError:
            continue
    raise ConfigError(f"{what} must be {_spell(kind)}, not {short_repr(value)}")


def _plug_in(value: Any, kind: Any, what: str) -> Any:
    group, method = _NESTED[kind.__name__]
    made = value
    if isinstance(value, str | Mapping):
        try:
            made = _named(group, from_text(value) if isinstance(value, str) else value)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from None
    if isinstance(made, type) or not callable(getattr(made, method, None)):
        raise ConfigError(
            f"{what} must be a {kind.__name__}: a name, {{name: settings}} or an object with a method {method!r}, "
            f"not {_shown(value)}"
        )
    return made


def _shown(value: Any) -> str:
    """What was given for a verifier, with the remedy where it is plain."""
    remedy = " (put parentheses behind it)" if isinstance(value, type) else ""
    return short_repr(value, 80) + (" (FunctionVerifier makes one of it)" if inspect.isroutine(value) else remedy)


def _items(value: Any, kind: Any, what: str, texts: bool) -> Any:
    """A mapping or list whose values are read as their type says."""
    given = from_text(value) if isinstance(value, str) and texts else value
    options = typing.get_args(kind)
    if isinstance(given, Mapping) and issubclass(typing.get_origin(kind), Mapping):
        items: dict[str, Any] = {str(key): item for key, item in given.items()}
        items = _nested(items, lambda _: options[-1]) if texts else items
        return {key: _coerce(item, options[-1], f"{what}.{key}", texts=texts) for key, item in items.items()}
    if isinstance(given, list | tuple) and not issubclass(typing.get_origin(kind), Mapping):
        listed = [_coerce(item, options[0], f"{what}[{at}]", texts=texts) for at, item in enumerate(given)]
        return tuple(listed) if issubclass(typing.get_origin(kind), tuple) else listed
    example = "{key: value, ...}" if issubclass(typing.get_origin(kind), Mapping) else "[value, ...]"
    raise ConfigError(f"{what} must be {example}, not {short_repr(value)}")


def _scalar(value: Any, kind: Any, what: str, texts: bool) -> Any:
    """A value as YAML, JSON or Python has it."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int and number and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and number and _finite(value):
        return float(value)
    if kind is str and (isinstance(value, str | os.PathLike) or (texts and number)):
        return str(value)
    if typing.get_origin(kind) is Callable and not callable(value):
        raise ConfigError(f"{what} must be a function, not {short_repr(value, 80)}")
    if kind in (int, float, str) or (kind is bool and not isinstance(value, bool)):
        raise ConfigError(f"{what} must be {_spell(kind)}, not {short_repr(value, 80)}")
    return value


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _read(text: str, kind: Any, what: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
            raise ConfigError(f"{what} must be true or false, not {text!r}")
        return text.lower() in ("true", "yes", "1")
    if kind in (int, float):
        try:
            return _scalar(kind(text), kind, what, texts=True)
        except ValueError:
            raise ConfigError(f"{what} must be {_spell(kind)}, not {text!r}") from None
    raise ConfigError(f"{what} cannot be given as text ({_spell(kind)}): use the Python interface")


def _is_protocol(kind: Any, *names: str) -> bool:
    """By name: importing `structdecode.core.protocols` here would make every command wait for numpy."""
    return isinstance(kind, type) and getattr(kind, "_is_protocol", False) and kind.__name__ in names


def _spell(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    if typing.get_args(kind):
        return " or ".join(_spell(option) for option in typing.get_args(kind))
    return words.get(kind, getattr(kind, "__name__", str(kind)))
