"""Every family under every engine: ``python -m tests.families [NAME ...]``. All of them: docs/architectures.md is written."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers.utils import logging

from tests.families.catalogue import FAMILIES
from tests.families.checks import CHECKS
from tests.families.run import ENGINES, Outcome, examined

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
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            for outcome in both(name):
                outcomes.append(outcome)
                for line in outcome.wrong:
                    progress.console.print(line, markup=False, highlight=False)
            progress.advance(task)
    if set(names) == set(FAMILIES):
        PAGE.write_text(page(outcomes), encoding="utf-8")
        console.print(f"{PAGE} is written")
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    console.print(f"{len(names)} families, {len(outcomes)} runs, {wrong} with a failed check")
    return int(wrong > 0)


def both(name: str) -> Iterable[Outcome]:
    """Under both engines, or once where one is not there for the family."""
    with FAMILIES[name].saved() as directory:
        for engine in ENGINES:
            outcome = examined(FAMILIES[name], Path(directory), engine)
            yield outcome
            if outcome.engine != engine:
                return


def page(outcomes: list[Outcome]) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("structdecode", "torch", "transformers")
    )
    names = list(CHECKS)
    lines = [INTRODUCTION.format(versions=f"{versions}, Python {platform.python_version()}, CPU"), ""]
    lines.append(f"| family | model | layers | engine | {' | '.join(names)} | seconds |")
    lines.append("| --- " * (len(names) + 5) + "|")
    refusals = []
    for name in dict.fromkeys(outcome.family for outcome in outcomes):
        first, *rest = [outcome for outcome in outcomes if outcome.family == name]
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
