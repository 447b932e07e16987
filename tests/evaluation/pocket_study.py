"""What the tests of comparisons share: a small study on the pocket world, and the run as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from structdecode.evaluation.store import read_run
from structdecode.evaluation.study import DataSource, Study, from_options
from structdecode.evaluation.types import Record

SAMPLED = ("temperature=1.0", "top_p=1.0", "max_tokens=120")


def small_study(
    strategies: Sequence[str] = ("direct", "staged"), verifiers: Sequence[str] = (), n: int = 4, **options: Any
) -> Study:
    return from_options(DataSource("pocket:test", limit=n), strategies, verifiers, **options)


def run(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """``structdecode`` in a process of its own."""
    command = [sys.executable, "-m", "structdecode", *map(str, arguments)]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=around, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def results(directory: Path) -> list[Record]:
    """All records without what may differ between two runs: the wall time."""
    return [replace(record, seconds=0.0) for record in read_run(directory).records]
