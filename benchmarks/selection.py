"""Who chooses well: every selector and verifier replayed from one recording of 500 questions: ``make selection``.

    make selection                        # records, replays, chooses: about half an hour on two cores
    python -m benchmarks.selection --from DIR   # publishes what lies in DIR: runs `samples` and `stages`

Generation is recorded once (16 samples a question, and a tree of two branches); verifiers that ask the model ask it on its
own weights (`on-model`), so that a replay needs no recording of their questions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs/selection-study"
STUDIES = ROOT / "examples/study"
DATA = ["--data", "pocket:test", "--limit", "500"]


def run(*words: str) -> None:
    """A command of structdecode's."""
    subprocess.run([sys.executable, "-m", "structdecode", *words], check=True)


def made(directory: Path) -> None:
    """Both recordings and what is replayed from them; goes on where it was."""
    samples, tree = str(directory / "pool"), str(directory / "tree")
    run("record", *DATA, "--n", "16", "--out", samples)
    run("record", *DATA, "--n", "1", "--branches", "2", "--out", tree)
    run("compare", str(STUDIES / "selection.yaml"), "--replay", samples, "--out", str(directory / "samples"))
    run("compare", str(STUDIES / "selection-stages.yaml"), "--replay", tree, "--out", str(directory / "stages"))
    run("select", str(directory / "samples"), "--n", "2,4,8,16")


def publish(directory: Path) -> None:
    """Copies what a reader needs; records and traces stay where they are."""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name in ("selection.md", "selection.html", "selection.json"):
        shutil.copy(directory / "samples" / name, TARGET / name)
    (TARGET / "stages.json").write_text(json.dumps(stage_rows(directory / "stages"), indent=1) + "\n")


def stage_rows(finished: Path) -> list[dict[str, Any]]:
    """Accuracy, losses and the verifier's cost of each search by stages."""
    rows = json.loads((finished / "tables.json").read_text())["accuracy"]["cells"]
    wanted = (
        "cell",
        "n",
        "accuracy",
        "coverage_loss",
        "selection_loss",
        "against_greedy",
        "p_greedy",
        "verifier_prefilled",
        "verifier_generated",
    )
    return [{name: row[name] for name in wanted if name in row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="given", type=Path, help="a directory with finished runs")
    directory = parser.parse_args().given
    if directory is None:
        directory = ROOT / "runs/selection"
        made(directory)
    publish(directory)


if __name__ == "__main__":
    main()
