"""A study: which cells, on which data, with which model. From the command line or from one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from structdecode.core import registry
from structdecode.core.budget import Budget
from structdecode.core.declared import read_declared
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.presets import Preset, load_preset
from structdecode.core.protocols import traits_of
from structdecode.core.reading import read_document
from structdecode.core.seeds import checked
from structdecode.core.settings import assignments, field_types, from_text
from structdecode.evaluation.cells import COUNT, Cell, CellTemplate, expand, own_name


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
        model: None is the pocket model. backend: its name or place, where it is not the one of transformers.
        judge: a model that is asked where the rules find an answer wrong, ``self`` for the one that answers.
    """

    data: DataSource
    templates: tuple[CellTemplate, ...]
    model: str | None = None
    seeds: tuple[int, ...] = (0,)
    judge: str | None = None
    backend: str | None = None
    cells: tuple[Cell, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(map(checked, self.seeds)))
        object.__setattr__(self, "cells", tuple(expand(self.templates, self.seeds)))


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
    templates = tuple(
        CellTemplate(
            name, verifiers=tuple(map(from_text, verifiers)) if "verifier" in known else (), budget=Budget.parse(budget), schema=schema,
            defaults=assignments(settings),
            sweep={key: values for key, values in swept.items() if _sweepable(key, kinds[name])},
        )
        for name in strategies
        for known in [taking[name]]
    )  # fmt: skip
    return Study(data, templates, model, tuple(seeds), judge)


def recording(
    data: DataSource,
    n: int,
    branches: int = 0,
    *,
    model: str | None = None,
    settings: Sequence[str] = (),
    schema: str | None = None,
    seeds: Sequence[int] = (0,),
) -> Study:
    """What `structdecode record` asks of a model: the greedy answer, ``n`` samples, and the whole tree of ``branches`` a stage.

    Args:
        settings: ``key=value`` each, of the samples.

    Raises:
        ConfigError: one is unknown or wrong.
    """
    given = assignments(settings)
    templates = [
        CellTemplate("staged", schema=schema),
        CellTemplate("best-of-n", settings={**given, "n": n}, schema=schema),
    ]
    if branches:
        templates.append(CellTemplate("exhaustive", settings=given, sweep={COUNT: (branches,)}, schema=schema))
    return Study(data, tuple(templates), model, tuple(seeds))


def load_study(path: str | Path) -> Study:
    """Reads a study from YAML. Its keys: ``model, backend, judge, data, schema, seed(s), defaults, budget, cells``.

    Raises:
        ConfigError: the file cannot be read, or a key or value is unknown or wrong.
        MissingExtraError: PyYAML is not installed.
    """
    return _study(read_declared(StudyFile, read_document(path), str(path), "study"), str(path))


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
    return replace(
        study, data=source, model=model or study.model, seeds=tuple(seeds) or study.seeds, judge=judge or study.judge
    )


@dataclass(frozen=True)
class CellEntry:
    """One of a file's ``cells``: a strategy, or a preset that says which, with what the entry says over it."""

    strategy: str = ""
    preset: str | None = None
    name: str | None = None
    verifiers: tuple[str | Mapping[str, Any], ...] | None = None
    settings: Mapping[str, Any] | None = None
    sweep: Mapping[str, Any] | None = None
    budget: str | Budget | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if not self.strategy and self.preset is None:
            raise ConfigError("strategy is missing: a name is wanted (or a preset)")


@dataclass(frozen=True)
class StudyFile:
    """A study as its YAML has it."""

    data: str | DataSource
    cells: tuple[CellEntry, ...]
    model: str | None = None
    backend: str | None = None
    judge: str | None = None
    schema: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    defaults: Mapping[str, Any] | None = None
    budget: str | Budget | None = None

    def __post_init__(self) -> None:
        if not self.cells:
            raise ConfigError("cells is empty: at least one mapping with a strategy is wanted")
        if self.seed is not None and self.seeds is not None:
            raise ConfigError("give 'seed' or 'seeds', not both")


def _study(file: StudyFile, where: str) -> Study:
    source = DataSource(file.data) if isinstance(file.data, str) else file.data
    seeds = file.seeds if file.seeds is not None else (file.seed or 0,)
    templates = tuple(_template(entry, file, f"{where}: cells[{at}]") for at, entry in enumerate(file.cells))
    return Study(source, templates, file.model, seeds, file.judge, file.backend)


def _template(entry: CellEntry, file: StudyFile, place: str) -> CellTemplate:
    preset = Preset("") if entry.preset is None else load_preset(entry.preset)
    verifiers = (preset.verifier,) if preset.verifier is not None else ()
    return CellTemplate(
        entry.strategy or preset.strategy, entry.name, verifiers if entry.verifiers is None else entry.verifiers,
        {**preset.settings, **(entry.settings or {})}, file.defaults or {}, entry.sweep or {},
        _budget(entry.budget if entry.budget is not None else file.budget), entry.schema or file.schema, place,
    )  # fmt: skip


def _budget(given: str | Budget | None) -> Budget:
    return given if isinstance(given, Budget) else Budget.parse(given or "")


def _sweepable(key: str, kind: type) -> bool:
    return own_name(key, traits_of(kind)).partition(".")[0] in field_types(kind)


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
