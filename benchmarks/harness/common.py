"""What both runs have in common: the questions, the search without a harness to compare with, and the report."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from itertools import islice
from pathlib import Path
from typing import Any

from structdecode.core.engine import decode
from structdecode.core.lookup import load_backend
from structdecode.core.protocols import Verifier
from structdecode.core.results import Result
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Prompt
from structdecode.pocket import world
from structdecode.strategies.stage_beam import StageBeam

HERE = Path(__file__).parent
QUESTIONS = 20


def scenes() -> list[world.Scene]:
    return list(islice(world.scenes("test", 0), QUESTIONS))


def directly(prompts: Sequence[Prompt], sample_ids: Sequence[str], verifier: Verifier) -> list[Result]:
    """The same search on the same questions by `decode`, one after the other, built by hand."""
    backend, strategy = load_backend(None), StageBeam(candidates=4, verifier=verifier)
    return [
        decode(prompt, backend=backend, strategy=strategy, schema=LLAVA_O1, seed=0, sample_id=sample_id)
        for prompt, sample_id in zip(prompts, sample_ids, strict=True)
    ]


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """Runs one command in a folder without network; its output, or the end of it where it failed."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{output[-4000:]}")
    return output


def written(folder: Path, pattern: str, output: str) -> Path:
    """The file that a harness has left; harnesses end with code 0 when they fail, so its own words are shown."""
    found = next(folder.rglob(pattern), None)
    if found is None:
        raise SystemExit(f"the harness wrote no {pattern}; the end of what it said:\n{output[-4000:]}")
    return found


def write(
    name: str, title: str, packages: Sequence[str], facts: Mapping[str, Any], rows: Sequence[dict[str, Any]]
) -> None:
    """``name.json`` with everything and ``name.md`` for reading."""
    here = {distribution.name for distribution in distributions()}  # VLMEvalKit goes by more than one name
    versions = {p: version(p) for p in ("structdecode", "torch", "transformers", *packages) if p in here}
    head = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "python": platform.python_version(), **versions}
    (HERE / f"{name}.json").write_text(json.dumps({**head, **facts, "samples": rows}, indent=1) + "\n")
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in head.items()), ""]
    lines += ["| what | value |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in facts.items()), ""]
    lines += ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in rows[0]) + " |"]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    (HERE / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|").replace("\n", " ")
