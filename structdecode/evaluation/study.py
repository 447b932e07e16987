"""A study: which cells, on which data, with which model. From the command line or from one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from structdecode.core import registry
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.protocols import traits_of
from structdecode.core.reading import parse_yaml, read_text
from structdecode.core.seeds import checked
from structdecode.core.settings import field_types, from_text
from structdecode.evaluation.cells import COUNT, Cell, Plan, expand, own_name

_KEYS = ("model", "judge", "data", "schema", "seed", "seeds", "defaults", "budget", "cells")
_CELL_KEYS = ("strategy", "name", "verifiers", "settings", "sweep", "budget", "schema")


@dataclass(frozen=True)
class DataSource:
    """What `structdecode.data.load` is asked for."""

    source: str
    images: str | None = None
    split: str | None = None
    limit: int | None = None
    columns: Mapping[str, str] | None = None
    cluster_by: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (isinstance(self.limit, bool) or self.limit < 1):
            raise ConfigError(f"limit must be at least 1, not {self.limit}")


@dataclass(frozen=True)
class Study:
    """Everything that is compared.

    Attributes:
        model: None is the pocket model.
        judge: a model that is asked where the rules find an answer wrong, ``self`` for the one that answers.
    """

    data: DataSource
    plans: tuple[Plan, ...]
    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    judge: str | None = None
    cells: tuple[Cell, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(map(checked, self.seeds)))
        object.__setattr__(self, "cells", tuple(expand(self.plans, self.seeds)))


def from_options(
    data: DataSource,
    strategies: Sequence[str],
    verifiers: Sequence[str] = (),
    *,
    model: str | None = None,
    judge: str | None = None,
    budget: str = "",
    sweep: Sequence[str] = (),
    settings: Sequence[str] = (),
    schema: str | None = None,
    seeds: Sequence[int] = (0,),
) -> Study:
    """A study from the command's options.

    Verifiers go to the strategies that take one, ``--set`` to those that have the setting, ``--sweep`` likewise.

    Raises:
        ConfigError: a name or value is unknown or wrong, or is for none of the strategies.
    """
    if not strategies:
        raise ConfigError("name at least one --strategy, or a study file; see `structdecode list strategies`")
    kinds = {name: registry.load("strategies", name) for name in strategies}
    taking = {name: field_types(kind) for name, kind in kinds.items()}
    swept = dict(_sweep(item) for item in sweep)
    for key in swept:
        if not any(_sweepable(key, kind) for kind in kinds.values()):
            raise UnknownNameError("sweep", key, {COUNT, *(name for known in taking.values() for name in known)})
    if verifiers and not any("verifier" in known for known in taking.values()):
        raise ConfigError(f"none of {', '.join(strategies)} takes a verifier: leave --verifier out")
    plans = tuple(
        Plan(
            name, verifiers=tuple(map(from_text, verifiers)) if "verifier" in known else (), budget=budget, schema=schema,
            defaults=dict(_setting(item) for item in settings),
            sweep={key: values for key, values in swept.items() if _sweepable(key, kinds[name])},
        )
        for name in strategies
        for known in [taking[name]]
    )  # fmt: skip
    return Study(data, plans, model, tuple(seeds), judge)


def load_study(path: str | Path) -> Study:
    """Reads a study from YAML. Its keys: ``model, judge, data, schema, seed(s), defaults, budget, cells``.

    Raises:
        ConfigError: the file cannot be read, or a key or value is unknown or wrong.
        MissingExtraError: PyYAML is not installed.
    """
    place = Path(path)
    content = _read_yaml(place)
    _check_keys(content, _KEYS, f"key in {place}")
    if not isinstance(content.get("cells"), list) or not content["cells"]:
        raise ConfigError(f"{place}: 'cells' must be a list of mappings with a 'strategy'")
    given = content.get("data")
    given = {"source": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or "source" not in given:
        raise ConfigError(f"{place}: 'data' must be a path, or a mapping with 'source'")
    _check_keys(given, [f.name for f in fields(DataSource)], f"key of 'data' in {place}")
    if "seed" in content and "seeds" in content:
        raise ConfigError(f"{place}: give 'seed' or 'seeds', not both")
    seeds = content.get("seeds", [content.get("seed", 0)])
    if not isinstance(seeds, list) or not all(isinstance(s, int) and not isinstance(s, bool) for s in seeds):
        raise ConfigError(f"{place}: 'seeds' must be a list of whole numbers, not {seeds!r}")
    plans = tuple(_plan(entry, content, place) for entry in content["cells"])
    return Study(DataSource(**given), plans, content.get("model"), tuple(seeds), content.get("judge"))


def overridden(
    study: Study,
    *,
    model: str | None = None,
    judge: str | None = None,
    data: str | None = None,
    images: str | None = None,
    limit: int | None = None,
    cluster_by: str | None = None,
    seeds: Sequence[int] = (),
) -> Study:
    """The study with what the command line says instead."""
    source = replace(
        study.data,
        source=data if data is not None else study.data.source,
        images=images if images is not None else study.data.images,
        limit=limit if limit is not None else study.data.limit,
        cluster_by=cluster_by if cluster_by is not None else study.data.cluster_by,
    )
    return Study(source, study.plans, model or study.model, tuple(seeds) or study.seeds, judge or study.judge)


def _plan(entry: Any, content: Mapping[str, Any], place: Path) -> Plan:
    if not isinstance(entry, dict) or not isinstance(entry.get("strategy"), str):
        raise ConfigError(f"{place}: a cell is a mapping with a 'strategy', not {entry!r}")
    _check_keys(entry, _CELL_KEYS, f"key of a cell in {place}")
    for key in ("settings", "sweep"):
        _mapping(entry.get(key), f"{place}: {key!r} of {entry['strategy']!r}")
    verifiers = entry.get("verifiers") or []
    if not isinstance(verifiers, list):
        raise ConfigError(f"{place}: 'verifiers' of {entry['strategy']!r} must be a list, not {verifiers!r}")
    return Plan(
        entry["strategy"], entry.get("name"), tuple(verifiers), entry.get("settings") or {},
        _mapping(content.get("defaults"), f"{place}: 'defaults'"), entry.get("sweep") or {},
        _budget_text(entry.get("budget", content.get("budget"))), entry.get("schema", content.get("schema")),
    )  # fmt: skip


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{what} must be a mapping, not {value!r}")
    return value or {}


def _budget_text(given: Any) -> str:
    if isinstance(given, dict):
        return ",".join(f"{key}={value}" for key, value in given.items())
    return str(given or "")


def _check_keys(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in given:
        if key not in known:
            raise UnknownNameError(what, str(key), known)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a study is a mapping with 'data' and 'cells'")
    return content


def _sweepable(key: str, kind: type) -> bool:
    return own_name(key, traits_of(kind)).partition(".")[0] in field_types(kind)


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, not {text!r}")
    return key, value


def _sweep(text: str) -> tuple[str, list[int | float | str]]:
    key, equals, values = text.partition("=")
    if not equals or not key or not values.strip(","):
        raise ConfigError(f"--sweep takes key=value,value,..., not {text!r}")
    return key, [_number(value.strip()) for value in values.split(",") if value.strip()]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
