"""Checkpoints that a kill cannot spoil: one counts when all of it is on the disk, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from structdecode.core.paths import write_atomically

COMPLETE = "complete"
"""A file that is written into a checkpoint last."""


class MarkComplete(TrainerCallback):
    """Writes the mark; transformers tells callbacks of a save when it is done."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            write_atomically(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, "")


def checkpoints(directory: Path) -> list[Path]:
    """The complete ones, oldest first."""
    found = [path for path in directory.glob("checkpoint-*") if (path / COMPLETE).exists() and _step(path) >= 0]
    return sorted(found, key=_step)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(checkpoints(directory)), None)


def remove_torn(directory: Path) -> None:
    """Removes what a kill in the middle of a save left behind."""
    for path in directory.glob("checkpoint-*"):
        if path.is_dir() and not (path / COMPLETE).exists():
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path | None) -> int:
    """The optimizer step that a checkpoint was made behind; 0 without one."""
    return 0 if checkpoint is None else _step(checkpoint)


def _step(path: Path) -> int:
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
