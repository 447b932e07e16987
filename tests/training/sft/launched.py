"""What two processes run: recipes and run directories, ``RECIPE OUT [RECIPE OUT ...]``.

They train one recipe after the other, and write beside each what every process holds of each weight when training begins.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import train
from tests import processes


class Shards(TrainerCallback):
    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        found = {
            name: (type(p).__name__, (p.to_local() if hasattr(p, "to_local") else p).numel(), p.numel())
            for name, p in model.named_parameters()
        }
        (self.out / f"shards-{args.process_index}.json").write_text(json.dumps(found))


def launch(*runs: tuple[Path, Path]) -> str:
    """Two processes on the CPU, gloo between them, with the environment that torchrun gives; what they print."""
    words = [path for run in runs for path in run]
    with socket.create_server(("127.0.0.1", 0)) as free:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    commands = [
        processes.start(*words, program=__name__, environment={**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    told = [command.communicate(timeout=300) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], [err[-3000:] for _, err in told]
    return "".join(out for out, _ in told)


def main() -> None:
    for recipe, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        outcome = train(load_recipe(recipe), Path(out), quiet=True, callbacks=(Shards(Path(out)),))
        if outcome.first:
            print(f"{out}: {outcome.steps} steps", flush=True)
