"""What choosing by a reward model would have given: candidates that a run has kept are ranked anew, nothing is decoded.

    python -m structdecode.training.reward_model.rerank runs/pocket-study best-of-n/log-prob/n=16 runs/reward/model

A best-of-N run's first n samples are what it had drawn with a smaller n, so one run tells for all sizes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import NDArray

from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter
from structdecode.core.errors import ConfigError
from structdecode.core.types import Candidate, Path, Prompt, Score, Span
from structdecode.records.store import Run, read_run
from structdecode.verifiers.reward_model import RewardModel

SIZES = (1, 2, 4, 8, 16)
RESAMPLES = 2000


@dataclass(frozen=True)
class Pool:
    """A question's candidates, in the order in which they were drawn.

    Attributes:
        right: [N]. before: [N] what the run's own verifier said, NaN for nothing.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    right: NDArray[np.bool_]
    before: NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Accuracies of best-of-``n`` in percent, with standard errors from a bootstrap over questions."""

    n: int
    before: tuple[float, float]
    after: tuple[float, float]
    difference: tuple[float, float]
    best_possible: float


def pools(run: Run, cell: str) -> Iterator[Pool]:
    """Raises `ConfigError` where the run has no such cell, or kept no traces of it."""
    records = [record for record in run.records if record.cell == cell]
    if not records:
        raise ConfigError(f"{run.directory}: no cell {cell!r}: {', '.join(sorted({r.cell for r in run.records}))}")
    for record in records:
        trace = run.trace(record.key)
        pictures = [run.picture(digest) for digest in trace["images"]] if trace is not None else [None]
        if trace is None or None in pictures:
            raise ConfigError(f"{run.directory}: question {record.id!r} has no trace, or no picture, any more")
        made: dict[Path, Candidate] = {(): Candidate()}
        for event in trace["events"]:
            if event["kind"] == "candidate":
                path = tuple(event["path"])
                span = Span(
                    event["stage"], event["text"], finish_reason=event["finish_reason"], closed=event["closed"],
                    lead=event.get("lead", " "),
                )  # fmt: skip
                made[path] = made[path[:-1]].extended(span, path[-1])
        pool = sorted(record.pool, key=lambda pooled: pooled.path)
        yield Pool(
            Prompt(run.questions[record.id]["text"], [path for path in pictures if path is not None]),
            tuple(made[pooled.path] for pooled in pool),
            np.array([pooled.correct for pooled in pool]),
            np.array([np.nan if pooled.score is None else pooled.score for pooled in pool]),
        )


def rerank(found: Sequence[Pool], ask: RewardModel, sizes: Sequence[int] = SIZES, seed: int = 0) -> list[Line]:
    """Best-of-n by the run's scores and by the reward model's last values, on the same samples."""
    after = [_values(pool, ask) for pool in found]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(found), size=(RESAMPLES, len(found)))
    lines = []
    for n in sizes:
        old = 100.0 * np.array([pool.right[:n][_first_best(pool.before[:n])] for pool in found])
        new = 100.0 * np.array(
            [pool.right[:n][_first_best(values[:n])] for pool, values in zip(found, after, strict=True)]
        )
        best = 100.0 * float(np.mean([pool.right[:n].any() for pool in found]))
        lines.append(Line(n, _figure(old, drawn), _figure(new, drawn), _figure(new - old, drawn), best))
    return lines


def _figure(values: NDArray[np.float64], drawn: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard error of [N] questions."""
    return float(values.mean()), float(values[drawn].mean(axis=1).std(ddof=1))


def _values(pool: Pool, ask: RewardModel) -> NDArray[np.float64]:
    async def read() -> list[Score]:
        async with MeteredModel(None, Meter(Budget()), (0, "")) as model:
            return await ask.score(pool.prompt, pool.candidates, model)

    return np.array([np.nan if score.value is None else score.value for score in asyncio.run(read())])


def _first_best(values: NDArray[np.float64]) -> int:
    return int(np.argmax(np.where(np.isnan(values), -np.inf, values)))


def table(lines: Sequence[Line]) -> str:
    """As Markdown."""
    rows = [
        "| n | by the run's verifier, % | by the reward model, % | difference | best possible, % |",
        "| --- " * 5 + "|",
    ]
    for line in lines:
        (a, b), (c, d), (e, f) = line.before, line.after, line.difference
        rows.append(
            f"| {line.n} | {a:.1f} ± {b:.1f} | {c:.1f} ± {d:.1f} | {e:+.1f} ± {f:.1f} | {line.best_possible:.1f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    directory, cell, model = sys.argv[1:]
    print(table(rerank(list(pools(read_run(FilePath(directory)), cell)), RewardModel(model))))
