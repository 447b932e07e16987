"""The main job on what is in the box: ``make demo``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from structdecode.pocket import world

SCENE = 7
"""Which held-out scene is shown."""


def run(folder: Path, console: Any) -> None:
    """One held-out picture, one question, stage-level beam search with a verifier; writes a trace."""
    from structdecode.cli.terminal import LiveStages, show_result
    from structdecode.cli.view import command
    from structdecode.core.assembly import make_strategy
    from structdecode.core.engine import decode
    from structdecode.core.lookup import load_backend
    from structdecode.core.types import Prompt

    scene = next(itertools.islice(world.scenes("test"), SCENE, None))
    folder.mkdir(parents=True, exist_ok=True)
    picture, trace = folder / "picture.png", folder / "trace.json"
    scene.render().save(picture)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)  # a path in two lines is none

    say(f"Picture:  {picture} (held out from training)")
    say(f"Question: {scene.question.text}")
    strategy, _, _ = make_strategy("stage-beam", "log-prob", ["candidates=4", "temperature=1.0"], None)
    with LiveStages(console) as live:
        backend = load_backend(None)
        result = decode(
            Prompt(scene.question.text, [picture]),
            backend=backend,
            strategy=strategy,
            seed=1,
            observer=live,
            trace_tokens=True,
        )
    show_result(console, result, repr(strategy), show_stages=True)
    result.trace.save(trace)
    say(f"True answer: {scene.answer}")
    say(f"Trace: {trace}   Look at it: {command(trace, [picture])}")


def main() -> None:
    from rich.console import Console

    run(Path("runs/demo"), Console(highlight=False))


if __name__ == "__main__":
    main()
