"""Pictures and questions of the little world as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from rich.progress import track

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.paths import atomic_folder
from structdecode.pocket import world


def write_samples(out: Path, split: str, n: int, seed: int, force: bool) -> None:
    """Writes ``images/NNNN.png`` and ``questions.jsonl`` (LLaVA-CoT-100k form).

    Raises:
        ConfigError: ``n`` is below 1, the seed below 0, the split is unknown, or the folder holds something and ``force`` is off.
    """
    if split not in get_args(world.Split):
        raise UnknownNameError("split", split, get_args(world.Split))
    if n < 1:
        raise ConfigError(f"n must be at least 1, not {n}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise ConfigError(f"{out}: is there already and not empty: choose another folder, or --force")
    if force and out.exists():
        return _write(out, split, n, seed)
    with atomic_folder(out) as partial:
        _write(partial, split, n, seed)


def _write(out: Path, split: str, n: int, seed: int) -> None:
    (out / "images").mkdir(parents=True, exist_ok=True)
    scenes = world.scenes(split, seed)  # type: ignore[arg-type]
    with (out / "questions.jsonl").open("w", encoding="utf-8") as file:
        for index in track(range(n), description="Drawing", disable=n < 50):
            scene, name = next(scenes), f"images/{index:04}.png"
            scene.render().save(out / name)
            turns = [{"from": "human", "value": scene.question.text}, {"from": "gpt", "value": scene.response}]
            record = {"id": f"pocket-{split}-{seed}-{index}", "image": name, "conversations": turns}
            file.write(json.dumps(record) + "\n")
