"""What the tests of comparisons share: a small study on the pocket world, and the run as a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.protocols import Backend
from structdecode.data import load
from structdecode.evaluation.commands import run_study
from structdecode.evaluation.study import DataSource, Study, from_options
from structdecode.matching.answers import final_answer
from structdecode.matching.types import Match, Question
from structdecode.records.store import read_run
from structdecode.records.types import Record
from tests import processes

SAMPLED = ("temperature=1.0", "top_p=1.0", "max_tokens=120")


def small_study(
    strategies: Sequence[str] = ("direct", "staged"), verifiers: Sequence[str] = (), n: int = 4, **options: Any
) -> Study:
    return from_options(DataSource("pocket:test", limit=n), strategies, verifiers, **options)


def run(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """``structdecode`` in a process of its own."""
    done = processes.run(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def results(directory: Path) -> list[Record]:
    """All records without what may differ between two runs: wall times."""
    return [replace(record, seconds=0.0, verifier_seconds=0.0) for record in read_run(directory).records]


def match(text: str, question: Question) -> Match:
    """Exact, as the pocket world's answers allow: these tests are not about matching."""
    found = final_answer(text)
    return Match(found in question.answers, "exact", found, "answered" if found else "empty")


def compare(study: Study, out: Path, backend: Backend, questions: Sequence[Question] = (), **options: Any) -> int:
    """A study in this process, without a report."""
    asked = questions or load(study.data.source, limit=study.data.limit).questions
    return run_study(study, asked, (), backend, match, out, report=False, quiet=True, **options)


def assert_same(one: Path, other: Path) -> None:
    """Records are equal but for the wall time and the last digits of scores, which no table depends on."""
    first, second = results(one), results(other)
    assert [record.key for record in first] == [record.key for record in second]
    for a, b in zip(map(bare, first), map(bare, second), strict=True):
        differing = {
            name: (value, other)
            for (name, value), other in zip(vars(a).items(), vars(b).values(), strict=True)
            if value != other
        }
        assert not differing, f"{a.cell}, question {a.id}: {differing}"
    assert scores(first) == pytest.approx(scores(second), abs=1e-4)


def tables(directory: Path) -> str:
    """All figures of a report; wall times are not among them."""
    return (directory / "tables.json").read_text()


def bare(record: Record) -> Record:
    """Without scores."""
    pool = tuple(replace(pooled, score=None) for pooled in record.pool)
    rounds = tuple(replace(one, values=tuple(value is not None for value in one.values)) for one in record.rounds)  # type: ignore[misc]
    return replace(record, pool=pool, rounds=rounds)


def scores(records: Sequence[Record]) -> list[float]:
    pooled = [candidate.score for record in records for candidate in record.pool]
    scored = [value for record in records for one in record.rounds for value in one.values]
    return [value for value in pooled + scored if value is not None]
