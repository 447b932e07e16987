"""What a question cost, in each of the units that a comparison can be matched by, and which cells cost the same.

The verifier's work counts in full, prompt tokens count, and what was in the cache already costs nothing. Each
question pays for its own prompt and pictures (see `isolation`), so a cell's cost does not depend on what ran beside it.
FLOPs: `structdecode.core.flops`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.records.types import Record

Unit = Literal[
    "tokens", "generated_tokens", "prefilled_tokens", "model_calls", "verifier_calls", "seconds", "flops", "dollars",
    "api_calls",
]  # fmt: skip
"""``tokens``: all that were computed, generated and prefilled, by generator and verifier together."""

PARTS = ("generator", "verifier")


def cost(record: Record, by: Unit, part: str | None = None) -> float:
    """Of one question, of one part (``generator``, ``verifier``) or of both.

    Raises:
        UnknownNameError: no such unit.
    """
    if by not in get_args(Unit):
        raise UnknownNameError("cost unit", by, get_args(Unit))
    if by == "seconds":
        return record.seconds
    parts = PARTS if part is None else (part,)
    if by == "flops":
        return sum(record.flops.get(name, 0.0) for name in parts)
    names = ("generated_tokens", "prefilled_tokens") if by == "tokens" else (by,)
    return float(sum(record.usage.get(name, {}).get(count, 0) for name in parts for count in names))


def mean_cost(records: Sequence[Record], by: Unit, part: str | None = None) -> float:
    """Mean over a cell's questions.

    Raises:
        ConfigError: there are none, or nothing was counted in this unit (FLOPs of a server's model).
    """
    if not records:
        raise ConfigError("no finished question to take the cost of")
    if by == "flops" and not any(record.flops for record in records):
        raise ConfigError("FLOPs are not known of this model (its weights are not here): match by tokens")
    return sum(cost(record, by, part) for record in records) / len(records)


@dataclass(frozen=True)
class Matched:
    """A family of cells (one strategy with one verifier, swept) at a target cost.

    Attributes:
        below: the family's dearest cell that costs no more than the budget; None where all cost more.
        above: the cheapest cell beyond it. below_cost, above_cost: their mean cost a question.
        share: how far the budget is from ``below`` (0) to ``above`` (1).
        accuracy: interpolated between the two in the cost; the cell's own where there is no ``above``: no credit for
            money that was not spent. None where all cells cost more than the budget.
        how: the same in words.
    """

    family: str
    by: Unit
    budget: float
    below: str | None
    below_cost: float | None
    above: str | None
    above_cost: float | None
    share: float
    accuracy: float | None
    how: str


def families(study: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Cells of a run's ``study.json`` by family, in the study's order."""
    found: dict[str, list[str]] = {}
    for cell in study["config"]["cells"]:
        found.setdefault(cell["family"], []).append(cell["name"])
    return {family: tuple(names) for family, names in found.items()}


def matched(
    by_cell: Mapping[str, Sequence[Record]],
    family_cells: Mapping[str, Sequence[str]],
    budget: float,
    by: Unit = "tokens",
) -> list[Matched]:
    """Each family at an equal mean cost a question; families without a finished question are left out."""
    found = []
    for family, names in family_cells.items():
        points = sorted((mean_cost(by_cell[n], by), n) for n in names if by_cell.get(n))
        if points:
            found.append(_match(family, points, by_cell, budget, by))
    return found


def _match(
    family: str,
    points: Sequence[tuple[float, str]],
    by_cell: Mapping[str, Sequence[Record]],
    budget: float,
    by: Unit,
) -> Matched:
    def accuracy(name: str) -> float:
        return sum(record.correct for record in by_cell[name]) / len(by_cell[name])

    within = [point for point in points if point[0] <= budget]
    beyond = [point for point in points if point[0] > budget]
    unit = by.replace("_", " ")
    if not within:
        cheapest, name = beyond[0]
        how = f"cannot be had: the cheapest cell, {name}, costs {_short(cheapest)} {unit}"
        return Matched(family, by, budget, None, None, name, cheapest, 0.0, None, how)
    below_cost, below = within[-1]
    if not beyond:
        how = f"{below}, its dearest cell, at {_short(below_cost)} {unit} ({below_cost / budget:.0%} of the budget)"
        return Matched(family, by, budget, below, below_cost, None, None, 0.0, accuracy(below), how)
    above_cost, above = beyond[0]
    share = (budget - below_cost) / (above_cost - below_cost)
    value = (1 - share) * accuracy(below) + share * accuracy(above)
    how = f"between {below} ({_short(below_cost)} {unit}) and {above} ({_short(above_cost)}), {share:.0%} of the way"
    return Matched(family, by, budget, below, below_cost, above, above_cost, share, value, how)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e5 else f"{value:,.1f}"
