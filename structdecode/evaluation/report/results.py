"""A run as the report sees it: cells with their figures, families of cells, and the two that others are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from structdecode.evaluation import costs, statistics
from structdecode.evaluation.cells import declared
from structdecode.evaluation.costs import Unit
from structdecode.evaluation.recording import WHOLE_ANSWER
from structdecode.evaluation.report.figures import Look, looks
from structdecode.evaluation.statistics import Estimate
from structdecode.evaluation.store import Run
from structdecode.evaluation.types import Record


@dataclass(frozen=True)
class CellResult:
    """One cell with its finished questions.

    Attributes:
        made: the strategy with all its settings, as ``study.json`` has it.
        width, independent, baseline: what the strategy declares, as in `structdecode.protocols.StrategyTraits`.
    """

    name: str
    family: str
    strategy: str
    verifier: str | None
    made: Mapping[str, Any]
    records: tuple[Record, ...]
    width: int = 1
    independent: bool = False
    baseline: bool = False

    @cached_property
    def by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    @cached_property
    def correct(self) -> dict[str, bool]:
        return {record.id: record.correct for record in self.records}

    @cached_property
    def accuracy(self) -> Estimate:
        return statistics.mean([record.correct for record in self.records])

    @cached_property
    def coverage(self) -> Estimate:
        """Questions for which any finished candidate was right: pass@N."""
        return statistics.mean([record.covered for record in self.records])

    @cached_property
    def random_pick(self) -> Estimate:
        """What choosing blindly among the finished candidates would get."""
        shares = [
            sum(c.correct for c in record.pool) / len(record.pool) if record.pool else float(record.correct)
            for record in self.records
        ]
        return statistics.mean(shares)

    def cost(self, by: Unit, part: str | None = None) -> Estimate:
        """Mean a question, of one part or of both; no interval. NaN where it was not counted (FLOPs of a server)."""
        key = (by, part)
        if key not in self._costs:
            known = by != "flops" or any(record.flops for record in self.records)
            values = [costs.cost(record, by, part) if known else math.nan for record in self.records]
            self._costs[key] = spread(values)
        return self._costs[key]

    @cached_property
    def _costs(self) -> dict[tuple[Unit, str | None], Estimate]:
        return {}

    def used(self, part: str, count: str) -> Estimate:
        """Mean a question of one of `Usage`'s counts."""
        return spread([float(record.usage.get(part, {}).get(count, 0)) for record in self.records])


def spread(values: list[float]) -> Estimate:
    """Mean and standard error, without an interval."""
    numbers = np.asarray(values, dtype=float)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Estimate(float(numbers.mean()), error, math.nan, math.nan, len(numbers))


@dataclass(frozen=True)
class Results:
    """All that the sections draw on."""

    run: Run

    @cached_property
    def cells(self) -> dict[str, CellResult]:
        """By name, in the study's order; only those with a finished question."""
        known = {cell["name"]: cell for cell in self.run.study["config"]["cells"]}
        return {
            name: CellResult(
                name,
                cell["family"],
                cell["strategy"],
                cell["verifier"],
                cell.get("resolved") or {},
                records,
                *declared(cell),
            )
            for name, records in self.run.by_cell.items()
            if records and (cell := known[name])
        }

    @cached_property
    def families(self) -> dict[str, list[CellResult]]:
        """Cells that differ in the sweep alone, by the family's name, narrow ones first."""
        found: dict[str, list[CellResult]] = {}
        for cell in self.cells.values():
            found.setdefault(cell.family, []).append(cell)
        return {family: sorted(cells, key=lambda cell: cell.width) for family, cells in found.items()}

    @cached_property
    def best(self) -> dict[str, CellResult]:
        """Of each family the cell with the highest accuracy; of equals the cheapest."""
        return {
            family: max(cells, key=lambda cell: (cell.accuracy.value, -cell.cost("tokens").value, cell.name))
            for family, cells in self.families.items()
        }

    @cached_property
    def greedy(self) -> CellResult | None:
        """The baseline without sampling."""
        return next((c for c in self._baselines if c.made.get("temperature") == 0), None)

    @cached_property
    def one_sample(self) -> CellResult | None:
        """The baseline, sampled once; else the narrowest search over independent samples, if it is one wide."""
        sampled = next((c for c in self._baselines if c.made.get("temperature") != 0), None)
        return sampled or next((c for c in self.cells.values() if c.independent and c.width == 1), None)

    @property
    def _baselines(self) -> list[CellResult]:
        return [cell for cell in self.cells.values() if cell.baseline]

    @cached_property
    def planned(self) -> int:
        """Questions that each cell is to be asked."""
        return len(self.run.questions) or max((len(cell.records) for cell in self.cells.values()), default=0)

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
    def correct(self) -> dict[str, dict[str, bool]]:
        return {name: cell.correct for name, cell in self.cells.items()}

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks({family: (cells[0].strategy, cells[0].verifier) for family, cells in self.families.items()})

    def units(self) -> list[Unit]:
        """Cost axes for which there are figures."""
        known: list[Unit] = ["tokens", "generated_tokens"]
        if any(not math.isnan(cell.cost("flops").value) for cell in self.cells.values()):
            known.append("flops")
        return known

    def pareto(self, by: Unit) -> list[CellResult]:
        """Cells that no other one beats in accuracy at the same cost or less; cheap ones first."""
        front: list[CellResult] = []
        known = [cell for cell in self.cells.values() if not math.isnan(cell.cost(by).value)]
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
