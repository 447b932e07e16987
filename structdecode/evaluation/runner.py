"""Runs every cell of a study on every question, many at once, and keeps each result before it counts as done.

A question that cannot be asked is a record with an ``error``. Something that fails on our side (memory, a strategy's
own exception) is no result: it is counted and named, the others go on, and the same command tries it again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from structdecode.core.engine import adecode
from structdecode.core.errors import (
    ImageError,
    ModelFailedError,
    NotRecordedError,
    PromptError,
    StrategyError,
    StructdecodeError,
)
from structdecode.core.flops import ModelCost
from structdecode.core.images import Picture
from structdecode.core.jsonl import Appender
from structdecode.core.lifetimes import lifetimes
from structdecode.core.paths import FULL, atomic
from structdecode.core.protocols import Backend
from structdecode.core.results import Result
from structdecode.core.types import Prompt
from structdecode.core.workers import as_done, check_concurrency
from structdecode.evaluation.cells import Cell
from structdecode.evaluation.code import CodeByCell
from structdecode.evaluation.identity import question_digest
from structdecode.evaluation.isolation import isolated
from structdecode.evaluation.judging import Judging
from structdecode.evaluation.progress import LiveCells
from structdecode.evaluation.recording import Matcher, compact_trace, counts, make_record, record_key, unasked
from structdecode.matching.types import Question
from structdecode.pools.recorder import RecordingBackend
from structdecode.pools.store import PoolWriter
from structdecode.records.store import read_records
from structdecode.records.types import Record

PICTURES = 5_000
"""The most pictures that are copied into a run directory."""
_PICTURE_SIDE = 512
_OURS = (StrategyError, ModelFailedError, NotRecordedError)
"""Errors of one search, beside which the others are run."""
_HOPELESS = 20
"""Failures on our side, with not one success among them, after which the rest is not tried."""


@dataclass(frozen=True)
class Trial:
    """One question for one cell.

    Attributes:
        accepted: keys that it had with earlier code whose results were accepted.
    """

    key: str
    cell: Cell
    question: Question
    accepted: tuple[str, ...] = ()

    def done(self, keys: Container[str]) -> str | None:
        """The key under which it is among these."""
        return next((key for key in (self.key, *self.accepted) if key in keys), None)


def plan_trials(
    cells: Sequence[Cell], questions: Sequence[Question], models: Sequence[str], accepted: Sequence[CodeByCell] = ()
) -> list[Trial]:
    """All work, a question's cells side by side: so all cells get on alike, whenever the run is looked at.

    Args:
        models: as in `record_key`. accepted: other code whose results count, by cell.
    """
    found = []
    for question in questions:
        digest = question_digest(question)
        for cell in cells:
            earlier = [codes[cell.name] for codes in accepted if codes[cell.name] != cell.code]
            keys = tuple(record_key(cell, digest, models, code) for code in earlier)
            found.append(Trial(record_key(cell, digest, models), cell, question, keys))
    return found


@dataclass
class Runner:
    """Does trials and keeps what comes of them.

    Attributes:
        directory: of the run. label: of this process's files: empty, or ``-1-of-4``.
        concurrency: the most questions in flight. judging: a second opinion where ``match`` says wrong.
        pool: keeps what every search asked of the model.
        failures: what failed on our side, by "cell, question".
        missing: of each cell the questions that a replay's pool does not cover, and how much of what is missing at least.
    """

    directory: Path
    backend: Backend
    match: Matcher
    concurrency: int = 32
    label: str = ""
    judging: Judging | None = None
    pool: PoolWriter | None = None
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)
        self._cost: ModelCost | None = getattr(self.backend, "flops", None)
        self._pictures = self.directory / "pictures"
        self._succeeded = 0
        self.missing: dict[str, tuple[int, Counter[str]]] = {}

    @property
    def unfinished(self) -> int:
        """Questions of cells that have no record, for whatever reason."""
        return len(self.failures) + sum(questions for questions, _ in self.missing.values())

    def run(self, trials: Sequence[Trial], progress: LiveCells) -> int:
        """Does what is not done yet; returns how many records it added.

        Raises:
            ConfigError: another process writes this run, or a strategy cannot be used with this model.
        """
        self._pictures.mkdir(parents=True, exist_ok=True)
        self._copied = sum(1 for _ in self._pictures.iterdir())
        self._records = Appender(self.directory / f"records{self.label}.jsonl")
        self._traces = Appender(self.directory / f"traces{self.label}.jsonl")
        try:
            done = read_records(self.directory)
            for trial in trials:
                if (key := trial.done(done)) is not None:
                    progress.add(done[key], now=False)
            left = [trial for trial in trials if trial.done(done) is None]
            asyncio.run(self._run(left, progress))
            return self._succeeded
        finally:
            self._records.close()
            self._traces.close()

    async def _run(self, trials: Sequence[Trial], progress: LiveCells) -> None:
        async with lifetimes(), aclosing(as_done(self._promising(trials), self._kept, self.concurrency)) as done:
            async for _, record in done:
                if record is not None:
                    progress.add(record)

    def _promising(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Trials for as long as not all of them fail."""
        for trial in trials:
            if self._succeeded == 0 and len(self.failures) >= _HOPELESS:
                return
            yield trial

    async def _kept(self, trial: Trial) -> Record | None:
        """The trial's record, when it is on the disk; None where something failed on our side."""
        try:
            record = await self._do(trial)
        except Exception as error:
            if isinstance(error, StructdecodeError) and not isinstance(error, _OURS):
                raise
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # of no use to try the next one
            if isinstance(error, NotRecordedError):
                questions, amounts = self.missing.get(trial.cell.name, (0, Counter[str]()))
                self.missing[trial.cell.name] = questions + 1, amounts + Counter(error.missing)
                return None
            place = f"cell {trial.cell.name!r}, question {trial.question.id!r}"
            self.failures[place] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return None
        self._records.add(record.as_dict())
        self._succeeded += 1
        return record

    async def _do(self, trial: Trial) -> Record:
        begun = time.monotonic()
        try:
            prompt = await asyncio.to_thread(trial.question.prompt)
            for picture in prompt.images:
                self._copy(picture)
            result = await adecode(
                prompt, backend=self._backend_for(trial), strategy=trial.cell.strategy, schema=trial.cell.schema,
                budget=trial.cell.budget, seed=trial.cell.seed, sample_id=trial.question.id,
            )  # fmt: skip
        except (ImageError, PromptError) as error:
            return unasked(trial.key, trial.cell, trial.question, str(error), self.match)
        seconds = round(time.monotonic() - begun, 3)
        match, judge = await self._judged(trial, prompt, result)
        record = make_record(trial.key, trial.cell, trial.question, prompt, result, seconds, match, self._cost)
        if judge is not None:
            record = replace(record, usage={**record.usage, "judge": judge})
        self._traces.add({"key": trial.key, "trace": compact_trace(result)})
        return record

    def _backend_for(self, trial: Trial) -> Backend:
        backend = isolated(self.backend)
        if self.pool is None:
            return backend
        return RecordingBackend(backend, self.pool.add, trial.question.id, trial.cell.name)

    async def _judged(self, trial: Trial, prompt: Prompt, result: Result) -> tuple[Matcher, dict[str, float] | None]:
        """The matcher for a search's answers, and what the judge cost if there is one."""
        if self.judging is None:
            return self.match, None
        schema = trial.cell.schema.for_prompt(prompt)
        texts = {result.answer: None, **{r.candidate.answer(schema): None for r in result.candidates}}
        known, cost = await self.judging.matches(texts, trial.question, trial.cell.seed)
        return lambda text, question: known.get(text) or self.match(text, question), counts(cost)

    def _copy(self, picture: Picture) -> None:
        """A small copy for the report, whole or not at all."""
        path = self._pictures / f"{picture.digest}.png"
        if path.exists() or self._copied >= PICTURES:
            return
        small: Image.Image = picture.image.copy()
        small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        with atomic(path, sync=False) as partial:
            small.save(partial, format="PNG")
        self._copied += 1
