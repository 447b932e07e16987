"""From names, as a command line or a script has them, to a strategy with its verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from structdecode.core import registry
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.labels import label_of
from structdecode.core.places import short_name
from structdecode.core.presets import PRESETS
from structdecode.core.settings import build, field_types, name_of_spec, verifier_from


def make_strategy(
    strategy: str | None, verifier: str | None, settings: Sequence[str], preset: str | None
) -> tuple[Any, str | None, str]:
    """`assemble` from texts, as a command line has them.

    Args:
        verifier: a name, or a mapping as YAML writes it on one line: ``{ensemble: {members: {a: log-prob}}}``.
        settings: ``key=value`` each; ``verifier.key=value`` of the verifier, ``verifier.members.a=value`` inside it.

    Raises:
        ConfigError: a name, key or value is unknown or wrong.
    """
    given: dict[str, str] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise UnknownNameError("preset", preset, PRESETS)
        chosen = PRESETS[preset]
        strategy, verifier = strategy or chosen.strategy, verifier or chosen.verifier
        given.update(chosen.settings)
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes key=value, not {item!r}")
        given[key] = value
    return assemble(strategy, verifier, given)


def assemble(
    strategy: str | None, verifier: str | Mapping[str, Any] | None, given: Mapping[str, Any]
) -> tuple[Any, str | None, str]:
    """The strategy with its verifier in it, the name that the verifier goes by, and the strategy's.

    Args:
        verifier: as `verifier_from` reads it. given: settings of the strategy; ``verifier.key`` of the verifier.

    Raises:
        ConfigError: a name, key or value is unknown or wrong.
    """
    name = strategy or "stage-beam"
    own = {k: v for k, v in given.items() if not k.startswith("verifier.")}
    for_verifier = {k.removeprefix("verifier."): v for k, v in given.items() if k.startswith("verifier.")}
    fields = field_types(registry.load("strategies", name))
    if (verifier or for_verifier) and "verifier" not in fields:
        with_one = [n for n, kind in registry.load_all("strategies").items() if "verifier" in field_types(kind)]
        raise ConfigError(f"strategy {name!r} takes no verifier; these do: {', '.join(with_one)}")
    if for_verifier and verifier is None:
        raise ConfigError("--set verifier.… needs --verifier")
    built = {"verifier": verifier_from(verifier, for_verifier)} if verifier else {}
    made = build("strategies", name, {**own, **built})
    named = short_name(name_of_spec(verifier)) if verifier else None
    used = label_of(made.verifier, named) if "verifier" in fields else None
    return made, used, short_name(name)
