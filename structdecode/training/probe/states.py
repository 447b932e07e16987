"""Hidden states at the ends of stages, read once of a set of labelled answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter
from structdecode.core.paths import atomic
from structdecode.core.protocols import Backend
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.training.reward_model.rows import StepDataset, StepRow
from structdecode.verifiers.probe import ProbeConfig, StageReader, States

SHARD = 512
"""Answers whose states are one file: what a killed run has read of them is read again."""


@dataclass(frozen=True)
class StageStates:
    """Of N answers.

    Attributes:
        states: [N, S, D], zero at stages that an answer does not have. present: [N, S].
        problems: why answers could not be read, which have no stage then.
    """

    states: NDArray[np.float32]
    present: NDArray[np.bool_]
    problems: tuple[str, ...] = ()


def read_states(
    backend: Backend, data: StepDataset, config: ProbeConfig, directory: Path, *, batch: int, quiet: bool = False
) -> StageStates:
    """Of all answers of a set, as `Probe` reads them in a search.

    Args:
        directory: where the states are kept: those that are there are not read again.
        batch: how many answers the model reads at a time, at least all of one question that are side by side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    with Progress(disable=quiet) as bar:
        task = bar.add_task("Reading answers", total=len(data))
        for start in range(0, len(data), SHARD):
            rows, place = range(start, min(start + SHARD, len(data))), directory / f"{start:08}.npz"
            if not place.exists():
                _write(place, asyncio.run(_read(backend, data, rows, config, batch)), config)
            found.append(_load(place))
            bar.advance(task, len(rows))
    return StageStates(
        np.concatenate([part.states for part in found]),
        np.concatenate([part.present for part in found]),
        tuple(problem for part in found for problem in part.problems),
    )


async def _read(
    backend: Backend, data: StepDataset, rows: Sequence[int], config: ProbeConfig, batch: int
) -> list[States | str]:
    found: list[States | str] = []
    for questions in _batches(data, rows, batch):
        for read in await asyncio.gather(*(_question(backend, data, each, config) for each in questions)):
            found += read
    return found


async def _question(
    backend: Backend, data: StepDataset, rows: Sequence[int], config: ProbeConfig
) -> list[States | str]:
    """Of answers to one question: the prompt with its pictures is computed once."""
    example = await asyncio.to_thread(data.__getitem__, rows[0])
    prompt = Prompt(data.step(rows[0]).asked, example.images)
    candidates = [_candidate(data.step(row), config) for row in rows]
    async with MeteredModel(None, Meter(Budget()), (0, "")) as model:
        return await StageReader(config).read(prompt, candidates, model.on(backend))


def _batches(data: StepDataset, rows: Sequence[int], batch: int) -> Iterator[list[list[int]]]:
    """Rows that are side by side by question, until there are enough of them."""
    questions: list[list[int]] = []
    before: tuple[object, ...] = ()
    for row in rows:
        step = data.step(row)
        key = (step.asked, step.images)
        if key == before:
            questions[-1].append(row)
            continue
        if sum(map(len, questions)) >= batch:
            yield questions
            questions = []
        questions.append([row])
        before = key
    yield questions


def _candidate(step: StepRow, config: ProbeConfig) -> Candidate:
    spans = []
    for stage, text in zip(step.stages, step.completions, strict=True):
        begin, end = config.tags(stage)
        spans.append(Span(stage, text.removeprefix(begin).removesuffix(end).strip(), raw=text))
    return Candidate(tuple(spans))


# ------------------------------------------------------------------ files


def _write(place: Path, read: Sequence[States | str], config: ProbeConfig) -> None:
    states = np.zeros((len(read), len(config.names), len(config.layers) * config.width), dtype=np.float32)
    present = np.zeros(states.shape[:2], dtype=bool)
    for row, of_stages in enumerate(read):
        if not isinstance(of_stages, str):
            for stage, vector in of_stages.items():
                states[row, config.names.index(stage)] = vector
                present[row, config.names.index(stage)] = True
    problems = np.array([each for each in read if isinstance(each, str)], dtype=np.str_)
    with atomic(place) as partial, partial.open("wb") as file:
        np.savez(file, states=states, present=present, problems=problems)


def _load(place: Path) -> StageStates:
    with np.load(place) as found:
        return StageStates(found["states"], found["present"], tuple(found["problems"].tolist()))
