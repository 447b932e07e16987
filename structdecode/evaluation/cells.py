"""Cells of a comparison: a strategy with its verifier, settings, schema, budget and seed, under a readable name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from structdecode.core import registry
from structdecode.core.assembly import assemble
from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.lookup import find_schema
from structdecode.core.places import short_name
from structdecode.core.plain import digest_of, plain
from structdecode.core.protocols import Strategy, StrategyTraits, traits_of
from structdecode.core.settings import field_types, name_and_settings
from structdecode.core.types import Schema
from structdecode.evaluation.code import Code, code_of

COUNT = "n"
"""The swept number of candidates, whatever a strategy calls it: the width that it declares."""


@dataclass(frozen=True)
class CellTemplate:
    """Cells before a sweep is expanded: one entry of a study's ``cells``.

    Attributes:
        verifiers: as `verifier_from` reads them: names, ``{name: settings}``, or a mapping with ``name`` and
            settings, verifiers inside it likewise; empty: the strategy's own default.
        settings: of the strategy; ``verifier.key`` of every verifier.
        defaults: settings that are taken where the strategy (or verifier) has them, under ``settings``.
        sweep: values by setting; ``n`` is the number of candidates, whatever the strategy calls it. budget: of each search.
        place: where it was read, for messages: ``study.yaml: cells[1]``.
    """

    strategy: str
    name: str | None = None
    verifiers: tuple[str | Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    schema: str | None = None
    place: str = ""


@dataclass(frozen=True)
class Cell:
    """What is run on every question.

    Attributes:
        family: the name without what is swept: cells of one family differ in the sweep alone.
        settings: as given. strategy: made of them, with its verifier in it.
    """

    name: str
    family: str
    strategy_name: str
    verifier_name: str | None
    settings: Mapping[str, Any]
    sweep: Mapping[str, Any]
    schema: Schema
    budget: Budget
    seed: int
    strategy: Strategy = field(repr=False)

    @cached_property
    def code(self) -> Code:
        """Which code strategy, verifier, all that they hold, and the engine are."""
        return code_of(self.strategy, self.schema)

    @cached_property
    def digest(self) -> str:
        """Of everything that decides a result, defaults and code included; the name is not part of it."""
        return self.digest_with(self.code)

    def digest_with(self, code: Mapping[str, Any]) -> str:
        """The digest that it has, or had, with other code."""
        return digest_of([plain(self.strategy), plain(self.schema), plain(self.budget), self.seed, code])

    @property
    def traits(self) -> StrategyTraits:
        return traits_of(type(self.strategy))

    @property
    def width(self) -> int:
        """N: candidates (of a whole answer, or of each stage); 1 where there is no choice."""
        return int(getattr(self.strategy, self.traits.width)) if self.traits.width else 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "family": self.family, "strategy": self.strategy_name, "verifier": self.verifier_name,
            "settings": dict(self.settings), "sweep": dict(self.sweep), "resolved": plain(self.strategy),
            "schema": plain(self.schema), "budget": plain(self.budget), "seed": self.seed, "digest": self.digest,
            "code": self.code, "width": self.width, "independent": self.traits.independent,
            "baseline": self.traits.baseline,
        }  # fmt: skip


def declared(cell: Mapping[str, Any]) -> tuple[int, bool, bool]:
    """Width, independence and being a baseline of a cell as ``study.json`` has it.

    Earlier versions did not write them: then the strategy of that name is asked, where it is there.
    """
    if "width" in cell:
        return cell["width"], cell["independent"], cell["baseline"]
    try:
        traits = traits_of(registry.load("strategies", cell["strategy"]))
    except ConfigError:
        return 1, False, False
    width = (cell.get("resolved") or {}).get(traits.width)
    return width if isinstance(width, int) else 1, traits.independent, traits.baseline


def expand(templates: Iterable[CellTemplate], seeds: Sequence[int]) -> list[Cell]:
    """Every cell of every template, for every seed.

    Raises:
        ConfigError: a name, setting or value is unknown or wrong, or two cells are the same.
    """
    templates = list(templates)
    _check_defaults(templates)
    cells = [cell for template in templates for cell in _expand_template(template)]
    if not cells:
        raise ConfigError("nothing to compare: name at least one strategy")
    if len(seeds) != len(set(seeds)) or not seeds:
        raise ConfigError(f"seeds must be different from each other, not {list(seeds)}")
    if len(seeds) == 1:
        cells = [replace(cell, seed=seeds[0]) for cell in cells]
    else:
        cells = [
            replace(cell, seed=seed, name=f"{cell.name}/seed={seed}", family=f"{cell.family}/seed={seed}")
            for cell in cells
            for seed in seeds
        ]
    _check_unique(cells)
    return cells


def _expand_template(template: CellTemplate) -> list[Cell]:
    try:
        return _cells(template)
    except ConfigError as error:
        if not template.place:
            raise
        raise ConfigError(f"{template.place}: {error}") from None


def _cells(template: CellTemplate) -> list[Cell]:
    kind = registry.load("strategies", template.strategy)
    known = field_types(kind)
    sweep = _own_names(template, known, traits_of(kind))
    found = []
    for verifier in template.verifiers or (None,):
        name, own = _verifier(verifier, template, known)
        swept_here = {key: values for key, values in sweep.items() if _has(name, key)}
        as_given = dict(zip(sweep, template.sweep, strict=True))
        for values in itertools.product(*swept_here.values()):
            swept = dict(zip(swept_here, values, strict=True))
            settings = {**_taken(template.defaults, known), **own, **template.settings, **swept}
            found.append(_cell(template, name, settings, {as_given[key]: value for key, value in swept.items()}))
    return found


def _has(verifier: str | None, key: str) -> bool:
    """Whether a swept setting is for the strategy, or for this verifier."""
    if verifier is None or not key.startswith("verifier."):
        return True
    return key.split(".")[1] in _fields(verifier)


def _fields(verifier: str) -> Mapping[str, Any]:
    return field_types(registry.load("verifiers", verifier))


def _cell(template: CellTemplate, verifier: str | None, settings: dict[str, Any], swept: dict[str, Any]) -> Cell:
    base = template.name or "/".join(filter(None, (short_name(template.strategy), verifier and short_name(verifier))))
    labels = [f"{key}={value}" for key, value in swept.items()]
    try:
        strategy, verifier_name, strategy_name = assemble(template.strategy, verifier, settings)
    except ConfigError as error:
        raise ConfigError(f"cell {'/'.join([base, *labels])!r}: {error}") from None
    family = template.name or strategy_name
    if verifier and (template.name is None or len(template.verifiers) > 1):
        family = f"{family}/{verifier_name}"
    schema = find_schema(template.schema or str(getattr(strategy, "default_schema", "llava-o1")))
    return Cell(
        "/".join([family, *labels]), family, strategy_name, verifier_name, settings, swept, schema, template.budget, 0, strategy,
    )  # fmt: skip


def _own_names(template: CellTemplate, known: Mapping[str, Any], traits: StrategyTraits) -> dict[str, Sequence[Any]]:
    """The sweep under the strategy's own field names."""
    found: dict[str, Sequence[Any]] = {}
    for key, values in template.sweep.items():
        own = own_name(key, traits)
        if (
            key.startswith("verifier.")
            and template.verifiers
            and not any(_has(name, key) for name in map(_name, template.verifiers))
        ):
            known_there = {f"verifier.{f}" for name in map(_name, template.verifiers) for f in _fields(name)}
            raise UnknownNameError(f"sweep of {template.strategy!r}", key, known_there)
        if own in found:
            raise ConfigError(
                f"sweep of {template.strategy!r}: {COUNT} and {own} are the same setting: give one of them"
            )
        if own.partition(".")[0] not in known:
            raise UnknownNameError(f"sweep of {template.strategy!r}", key, known)
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"sweep of {template.strategy!r}: {key} must be a list of values, not {values!r}")
        found[own] = values
    return found


def own_name(key: str, traits: StrategyTraits) -> str:
    """A strategy's own name of a swept setting."""
    return traits.width or COUNT if key == COUNT else key


def _verifier(
    given: str | Mapping[str, Any] | None, template: CellTemplate, known: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """A verifier's name, and the settings that are for it alone, as ``verifier.key``."""
    if given is None:
        return None, {}
    name = _name(given)
    own = {} if isinstance(given, str) else name_and_settings(given)[1]
    defaults = {key.removeprefix("verifier."): v for key, v in template.defaults.items() if key.startswith("verifier.")}
    if "verifier" not in known:
        defaults = {}  # `assemble` says which strategies take one
    return name, {f"verifier.{key}": value for key, value in {**_taken(defaults, _fields(name)), **own}.items()}


def _name(given: str | Mapping[str, Any]) -> str:
    """A verifier's name, from one of the forms that a template takes."""
    return given if isinstance(given, str) else name_and_settings(given)[0]


def _taken(defaults: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in defaults.items()
        if key.partition(".")[0] in known and not key.startswith("verifier.")
    }


def _check_defaults(templates: Sequence[CellTemplate]) -> None:
    """A default that no strategy and no verifier of the study knows is a typo."""
    known = {name for template in templates for name in field_types(registry.load("strategies", template.strategy))}
    of_verifiers = {
        f"verifier.{name}" for template in templates for v in template.verifiers for name in _fields(_name(v))
    }
    for key in {key for template in templates for key in template.defaults}:
        parts = key.split(".")
        if (parts[0] not in known) if parts[0] != "verifier" else ".".join(parts[:2]) not in of_verifiers | known:
            raise UnknownNameError("setting", key, known | of_verifiers)


def _check_unique(cells: Sequence[Cell]) -> None:
    names: set[str] = set()
    digests: dict[str, str] = {}
    for cell in cells:
        if cell.name in names:
            raise ConfigError(f"two cells are called {cell.name!r}: give one of them a name of its own")
        if cell.digest in digests:
            raise ConfigError(f"cells {digests[cell.digest]!r} and {cell.name!r} are the same: leave one out")
        names.add(cell.name)
        digests[cell.digest] = cell.name
