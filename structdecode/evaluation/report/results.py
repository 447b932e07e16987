"""A run as the report sees it: cells with their figures, families of cells, and the two that others are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from structdecode.core.resolution import resolution
from structdecode.evaluation import costs, statistics
from structdecode.evaluation.cells import declared
from structdecode.evaluation.clusters import members, standard_error
from structdecode.evaluation.costs import Unit
from structdecode.evaluation.recording import WHOLE_ANSWER
from structdecode.evaluation.report.figures import SeriesStyle, series_styles
from structdecode.evaluation.soundness import broken
from structdecode.evaluation.statistics import Estimate
from structdecode.records.store import Run
from structdecode.records.types import Record


@dataclass(frozen=True)
class CellResult:
    """One cell with its finished questions, all seeds of it together.

    Attributes:
        resolved: the strategy with all its settings, as ``study.json`` has it. records: one for each question and seed.
        width, independent, baseline: what the strategy declares, as in `structdecode.core.protocols.StrategyTraits`.
        clusters: by question id its cluster.
    """

    name: str
    family: str
    strategy: str
    verifier: str | None
    resolved: Mapping[str, Any]
    records: tuple[Record, ...]
    width: int = 1
    independent: bool = False
    baseline: bool = False
    clusters: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Record]:
        """By question, of several seeds the first."""
        return {record.id: record for record in reversed(self.records)}

    @cached_property
    def correct(self) -> dict[str, float]:
        """By question whether it was right; of several seeds the share that was."""
        found: dict[str, list[bool]] = {}
        for record in self.records:
            found.setdefault(record.id, []).append(record.correct)
        return {question: sum(right) / len(right) for question, right in found.items()}

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({record.seed for record in self.records}))

    @cached_property
    def broken(self) -> str:
        """Why its figures are no evidence; empty where they are."""
        return broken(self.records)

    @cached_property
    def keys(self) -> list[str]:
        """The cluster of each record. A question's seeds are in one, so what is drawn from them is nested in it."""
        return [self.clusters.get(record.id, f"question {record.id}") for record in self.records]

    def mean(self, values: Sequence[float]) -> Estimate:
        """The mean of one value a record, clustered; ``n`` counts questions."""
        return replace(statistics.mean(values, self.keys), n=len(self.correct))

    def gap(self, values: Sequence[float]) -> Estimate:
        """The mean of one difference a record, clustered."""
        return replace(statistics.mean_gap(values, self.keys), n=len(self.correct))

    @cached_property
    def accuracy(self) -> Estimate:
        return self.mean([record.correct for record in self.records])

    @cached_property
    def coverage(self) -> Estimate:
        """Questions for which any finished candidate was right: pass@N."""
        return self.mean([record.covered for record in self.records])

    @cached_property
    def coverage_loss(self) -> Estimate:
        """1 - pass@N: questions for which no finished candidate was right."""
        return self.mean([not record.covered for record in self.records])

    @cached_property
    def selection_loss(self) -> Estimate:
        """pass@N less the accuracy: questions for which a right candidate was there and another one chosen."""
        return self.gap([float(record.covered) - float(record.correct) for record in self.records])

    @cached_property
    def random_pick(self) -> Estimate:
        """What choosing blindly among the finished candidates would get."""
        shares = [
            sum(c.correct for c in record.pool) / len(record.pool) if record.pool else float(record.correct)
            for record in self.records
        ]
        return self.mean(shares)

    def cost(self, by: Unit, part: str | None = None) -> Estimate:
        """Mean a question, of one part or of both; no interval. NaN where it was not counted (FLOPs of a server)."""
        key = (by, part)
        if key not in self._costs:
            known = by != "flops" or any(record.flops for record in self.records)
            values = [costs.cost(record, by, part) if known else math.nan for record in self.records]
            self._costs[key] = spread(values, self.keys)
        return self._costs[key]

    @cached_property
    def _costs(self) -> dict[tuple[Unit, str | None], Estimate]:
        return {}

    def used(self, part: str, count: str) -> Estimate:
        """Mean a question of one of `Usage`'s counts."""
        return spread([float(record.usage.get(part, {}).get(count, 0)) for record in self.records], self.keys)


def spread(values: list[float], clusters: Sequence[str]) -> Estimate:
    """Mean and clustered standard error, without an interval."""
    numbers, of = np.asarray(values, dtype=float), members(clusters, len(values))
    error = standard_error(numbers, of) if not np.isnan(numbers).any() else math.nan
    return Estimate(float(numbers.mean()), error, math.nan, math.nan, len(numbers), int(of.max()) + 1)


@dataclass(frozen=True)
class Results:
    """All that the sections draw on."""

    run: Run

    @cached_property
    def cells(self) -> dict[str, CellResult]:
        """By name, in the study's order; only those with a finished question. Seeds of one cell are pooled."""
        by_cell, found = self.run.by_cell, dict[str, CellResult]()
        for cell in self.run.study["config"]["cells"]:
            records = by_cell.get(cell["name"], ())
            if not records:
                continue
            end = f"/seed={cell.get('seed')}"
            name = cell["name"].removesuffix(end)
            earlier = found[name].records if name in found else ()
            found[name] = CellResult(
                name, cell["family"].removesuffix(end), cell["strategy"], cell["verifier"], cell.get("resolved") or {},
                (*earlier, *records), *declared(cell), self.clusters,
            )  # fmt: skip
        return found

    @cached_property
    def clusters(self) -> dict[str, str]:
        """By question id the cluster that the run's data give it; a question without one is its own."""
        return {id: line.get("cluster") or f"question {id}" for id, line in self.run.questions.items()}

    @property
    def resolution(self) -> float:
        """Differences of the model's own numbers up to which are noise."""
        return resolution((self.run.study["config"].get("model") or {}).get("dtype") or "float32")

    @cached_property
    def sound(self) -> dict[str, CellResult]:
        """Cells that may win and be compared: those that are not broken."""
        return {name: cell for name, cell in self.cells.items() if not cell.broken}

    @cached_property
    def families(self) -> dict[str, list[CellResult]]:
        """Cells that differ in the sweep alone, by the family's name, narrow ones first."""
        found: dict[str, list[CellResult]] = {}
        for cell in self.cells.values():
            found.setdefault(cell.family, []).append(cell)
        return {family: sorted(cells, key=lambda cell: cell.width) for family, cells in found.items()}

    @cached_property
    def best(self) -> dict[str, CellResult]:
        """Of each family the sound cell with the highest accuracy; of equals the cheapest."""
        return {
            family: max(sound, key=lambda cell: (cell.accuracy.value, -cell.cost("tokens").value, cell.name))
            for family, cells in self.families.items()
            if (sound := [cell for cell in cells if not cell.broken])
        }

    @cached_property
    def greedy(self) -> CellResult | None:
        """The baseline without sampling."""
        return next((c for c in self._baselines if c.resolved.get("temperature") == 0), None)

    @cached_property
    def one_sample(self) -> CellResult | None:
        """The baseline, sampled once; else the narrowest search over independent samples, if it is one wide."""
        sampled = next((c for c in self._baselines if c.resolved.get("temperature") != 0), None)
        return sampled or next((c for c in self.cells.values() if c.independent and c.width == 1), None)

    @property
    def _baselines(self) -> list[CellResult]:
        return [cell for cell in self.cells.values() if cell.baseline]

    @cached_property
    def planned(self) -> int:
        """Questions that each cell is to be asked."""
        return len(self.run.questions) or max((len(cell.correct) for cell in self.cells.values()), default=0)

    @cached_property
    def places(self) -> dict[str, int]:
        """Each question's place in the data."""
        others = {i for cell in self.cells.values() for i in cell.correct} - self.run.questions.keys()
        return {question: place for place, question in enumerate([*self.run.questions, *sorted(others)])}

    @cached_property
    def unfinished(self) -> dict[str, int]:
        """Cells that lack questions: how many are done."""
        done = {name: len(records) for name, records in self.run.by_cell.items()}
        return {name: count for name, count in done.items() if count < self.planned}

    @cached_property
    def unequal(self) -> bool:
        """Whether cells were asked different questions."""
        return len({frozenset(cell.correct) for cell in self.cells.values()}) > 1

    @cached_property
    def correct(self) -> dict[str, dict[str, float]]:
        return {name: cell.correct for name, cell in self.cells.items()}

    @cached_property
    def series_styles(self) -> dict[str, SeriesStyle]:
        return series_styles(
            {family: (cells[0].strategy, cells[0].verifier) for family, cells in self.families.items()}
        )

    def units(self) -> list[Unit]:
        """Cost axes for which there are figures."""
        known: list[Unit] = ["tokens", "generated_tokens"]
        if any(not math.isnan(cell.cost("flops").value) for cell in self.cells.values()):
            known.append("flops")
        return known

    def pareto(self, by: Unit) -> list[CellResult]:
        """Sound cells that no other one beats in accuracy at the same cost or less; cheap ones first."""
        front: list[CellResult] = []
        known = [cell for cell in self.sound.values() if not math.isnan(cell.cost(by).value)]
        for cell in sorted(known, key=lambda cell: (cell.cost(by).value, -cell.accuracy.value, cell.name)):
            if not front or cell.accuracy.value > front[-1].accuracy.value:
                front.append(cell)
        return front


def stage_name(stage: str) -> str:
    """As it is shown: a verifier's round over whole answers is recorded under a name that stages have too."""
    return "whole answer" if stage == WHOLE_ANSWER else stage


UNIT_NAMES: dict[Unit, str] = {
    "tokens": "tokens computed (generated and prefilled, verifier included)",
    "generated_tokens": "tokens generated (verifier included)",
    "flops": "FLOPs (verifier and pictures included)",
}
