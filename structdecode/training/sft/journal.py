"""The run's log: a JSON line for each thing that `Trainer` logs, in step with the checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from structdecode.core.jsonl import lines
from structdecode.core.paths import write_atomically


class Journal(TrainerCallback):
    """Appends ``{"step", "seconds", ...}`` lines.

    What a killed run had written behind its last checkpoint is cut off when it is resumed, since those steps are taken
    again. ``seconds`` is the time in training so far, over all sittings.

    Args:
        path: the JSONL file.
        done: the step that the run resumes from.
        first: what is said of the data, in a line of its own before the first step.
    """

    def __init__(self, path: Path, done: int, first: Mapping[str, Any] | None = None) -> None:
        self.path = path
        kept = [line for line in read_journal(path) if line["step"] <= done] if done else []
        if not kept and first:
            kept = [{"step": 0, "seconds": 0.0, **first}]
        write_atomically(path, "".join(_text(line) for line in kept))
        self.before = max((line["seconds"] for line in kept), default=0.0)
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        seconds = round(self.before + time.monotonic() - self.started, 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_text({"step": state.global_step, "seconds": seconds, **logs}))


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole lines; none where there is no file."""
    return list(lines(path))


def _text(line: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
