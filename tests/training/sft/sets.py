"""A tiny checkpoint and a small LLaVA-CoT set on disk, made of the pocket world's scenes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Sampling
from structdecode.pocket import world
from tests.training import processors

TINY = {
    "precision": "fp32", "workers": 0, "batch_size": 4, "log_every": 1, "save_every": 2, "eval_every": 4,
    "accuracy_every": 4, "accuracy_questions": 2, "lr": 1e-3, "warmup": 2, "gradient_checkpointing": False,
    "held_out": 4, "epochs": 2,
}  # fmt: skip
"""Settings of a recipe that a tiny model finishes in seconds."""
SHORT = {
    "name": LLAVA_O1.name,
    "stages": [asdict(replace(stage, sampling=Sampling(max_tokens=6))) for stage in LLAVA_O1.stages],
}
"""LLaVA-o1's stages for a model that never closes one: without a limit it writes to the end of its context."""


def write_set(folder: Path, rows: int, *, text_only: int = 0) -> Path:
    """``train.jsonl`` with pictures beside it; the last ``text_only`` rows have none."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index, scene in enumerate(islice(world.scenes("train", 3), rows)):
        row: dict[str, Any] = {"id": f"scene-{index}"}
        answer = scene.response
        if index < rows - text_only:
            row["image"] = f"images/{index}.png"
            scene.render().save(folder / "images" / f"{index}.png")
        turns = [{"from": "human", "value": scene.question.text}, {"from": "gpt", "value": answer}]
        lines.append(json.dumps({**row, "conversations": turns}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def write_model(folder: Path, name: str = "mllama", seed: int = 0) -> Path:
    """A tiny random checkpoint of an architecture, with its processor and its real chat template."""
    torch.manual_seed(seed)
    model, processor = processors.build(name)
    model.to(torch.float32).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
