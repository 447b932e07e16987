"""What two processes run: ``python -m torch.distributed.run ... -m tests.training.sft.launched RECIPE OUT [RECIPE OUT ...]``.

Trains one recipe after the other, and writes beside each what every process holds of each weight when training begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from structdecode.training.sft.recipe import load_recipe
from structdecode.training.sft.run import train


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
    """Two processes on the CPU, gloo between them; what they print."""
    words = [str(path) for run in runs for path in run]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.training.sft.launched", *words,
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout.decode()


if __name__ == "__main__":
    for recipe, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        outcome = train(load_recipe(recipe), out, quiet=True, callbacks=(Shards(Path(out)),))
        if outcome.first:
            print(f"{out}: {outcome.steps} steps", flush=True)
