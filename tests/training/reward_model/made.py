"""Small files of rows as `structdecode export --to prm` writes them, from the pocket world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from structdecode.pocket import world

STAGES = ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]


def row(
    question: str, texts: list[str], labels: list[bool], images: list[str], name: str | None = None
) -> dict[str, Any]:
    stages = STAGES[: len(texts)]
    return {
        "prompt": question, "completions": [f"<{s}> {t} </{s}>" for s, t in zip(stages, texts, strict=True)],
        "labels": labels, "images": images, "stages": stages, **({"origin": {"id": name}} if name else {}),
    }  # fmt: skip


def answers(scene: world.Scene, image: str, name: str, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One that is right, one with a conclusion that never is, one with a wrong caption."""
    texts = list(scene.stages.values())
    yield row(scene.question.text, texts, [True] * 4, [image], name)
    yield row(scene.question.text, [*texts[:3], "16"], [True] * 3 + [False], [image], name)
    things = world.corrupt(scene.things, rng)
    caption, reasoning = world.caption(things), world.reasoning(scene.question, things)
    texts = [texts[0], caption, reasoning, str(len(scene.question.counted(things)))]
    yield row(scene.question.text, texts, [True] + [False] * 3, [image], name)


def write(path: Path, questions: int) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for number, scene in enumerate(islice(world.scenes("train", 3), questions)):
        scene.render().save(path.parent / f"{number}.png")
        lines += [json.dumps(line) for line in answers(scene, f"{number}.png", f"q{number}", rng)]
    path.write_text("\n".join(lines) + "\n")
    return path
