"""Every family under every engine: ``python -m tests.families [NAME ...]``. All of them: docs/architectures.md is written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.families.catalogue import FAMILIES
from tests.families.checks import CHECKS
from tests.families.run import Outcome, quiet, under_both_engines

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
INTRODUCTION = """# Architectures

Which families of image-text models decode as their own `generate` does. Made by `make architectures` ({versions}).

Each is a tiny random checkpoint of the real classes with its real processor, saved and loaded as yours would be. The
oracle is a second copy of the model: greedy tokens have to be those of `model.generate`, and the log-probability of
every token that was written has to be that of a `generate` that is forced to write the same tokens (2e-3 nats, float32).

- *engine*: what it runs on when nothing is asked for. `slots` decodes all open questions in one batch; `plain`, one
  request at a time, is also run for each. A cell says `x / plain: y` where the two differ.
- *greedy*, *long answer*: in one go, in pieces, in equal rows. *forks*: three rows of different lengths from one
  prompt, two from each of them, behind forced tags. *many*: questions and pictures of different sizes in one batch.
- *judge*: a verifier's question about the same picture in between. *encoded once*: it does not encode that again.
- *no picture*, *two pictures*, *prefix cache* (the same prompt again, and one that begins alike), *long prompt*.
- `refused`: one line says so, when the backend is made or when the prompt is given; never a wrong answer.
- `_mid`: a window (or chunk) that the answer grows out of; `_wide`: one that holds all. Else it is shorter than the prompt.

The same is tried when a backend is made (`structdecode/backends/transformers/selfcheck.py`): some thirty tokens of
forked, ragged rows behind a small picture, and around the model's window where it has one of 4096 tokens at most, once
for each configuration in a process. A model that would be decoded otherwise, or not at all, is refused in one line. It
takes less than a second on the pocket model; models of more than a billion parameters on a CPU are tried on short text
alone. `check=False` (`--no-check`) leaves it out, and `structdecode doctor --model M` shows what it found.
"""


def main(names: list[str]) -> int:
    outcomes: dict[str, list[Outcome]] = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    workers = ProcessPoolExecutor(min(os.cpu_count() or 1, 4), get_context("spawn"), quiet)
    with workers, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(names))
        for done in as_completed([workers.submit(under_both_engines, name) for name in names]):
            found = done.result()
            outcomes[found[0].family] = found
            progress.update(task, description=found[0].family, advance=1)
            for line in [line for outcome in found for line in outcome.wrong]:
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    if set(names) == set(FAMILIES):
        PAGE.write_text(page([outcomes[name] for name in names]), encoding="utf-8")
        console.print(f"{PAGE} is written")
    wrong = sum(any(outcome.wrong for outcome in found) for found in outcomes.values())
    console.print(f"{len(names)} families, {wrong} with a failed check")
    return int(wrong > 0)


def page(families: list[list[Outcome]]) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("structdecode", "torch", "transformers")
    )
    names = list(CHECKS)
    lines = [INTRODUCTION.format(versions=f"{versions}, Python {platform.python_version()}, CPU"), ""]
    lines.append(f"| family | model | layers | engine | {' | '.join(names)} | seconds |")
    lines.append("| --- " * (len(names) + 5) + "|")
    refusals = []
    for first, *rest in families:
        name = first.family
        seconds = sum(outcome.seconds for outcome in (first, *rest))
        if first.refusal:
            refusals.append(f"- `{name}`: {first.refusal}")
        cells = [_joined(first, rest, check) for check in names]
        lines.append(
            f"| {name} | {first.model or '-'} | {first.layers or '-'} | {first.engine or first.cells['load']} | {' | '.join(cells)} | {seconds:.0f} |"
        )
    if refusals:
        lines += ["", "What is refused when the backend is made:", "", *refusals]
    return "\n".join(lines) + "\n"


def _joined(first: Outcome, rest: list[Outcome], check: str) -> str:
    mine = first.cells.get(check, "-")
    others = [f"plain: {o.cells.get(check, '-')}" for o in rest if o.cells.get(check, "-") != mine]
    return " / ".join([mine, *others]).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(FAMILIES)))
