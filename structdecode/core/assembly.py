"""From names, as a command line or a script has them, to a strategy with its verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from structdecode.core import registry
from structdecode.core.errors import ConfigError
from structdecode.core.labels import label_of
from structdecode.core.places import short_name
from structdecode.core.presets import load_preset
from structdecode.core.settings import assignments, build, field_types, name_of_spec, verifier_from


def make_strategy(
    strategy: str | None, verifier: str | None, settings: Sequence[str], preset: str | None
) -> tuple[Any, str | None, str]:
    """`assemble` from texts, as a command line has them.

    Args:
        verifier: a name, or a mapping as YAML writes it on one line: ``{ensemble: {members: {a: log-prob}}}``.
        preset: a name, or a file.
        settings: ``key=value`` each, over the preset's; ``verifier.key=value`` of the verifier, ``verifier.members.a=value`` inside it.

    Raises:
        ConfigError: a name, key or value is unknown or wrong.
    """
    given: dict[str, Any] = assignments(settings)
    if preset is None:
        return assemble(strategy, verifier, given)
    chosen = load_preset(preset)
    return assemble(strategy or chosen.strategy, verifier or chosen.verifier, {**chosen.settings, **given})


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
