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

from benchmarks.study import share

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs/selection-study"
PAGE = ROOT / "docs/selection.md"
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
    (TARGET / "figures").mkdir()
    shutil.copy(directory / "samples/figures/selection.svg", TARGET / "figures/selection.svg")
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


def chosen(directory: Path, n: int = 16) -> str:
    """Accuracy of each selector with each verifier at ``n`` samples, as Markdown."""
    found = json.loads((directory / "selection.json").read_text())["selection"]
    at = {(row["verifier"], row["selector"]): row["accuracy"] for row in found if row["n"] == n}
    verifiers = list(dict.fromkeys(row["verifier"] for row in found))
    selectors = [
        s for s in dict.fromkeys(row["selector"] for row in found) if any((v, s) in at for v in verifiers if v != "-")
    ]
    lines = ["| verifier | " + " | ".join(selectors) + " |", "| --- |" + " ---: |" * len(selectors)]
    for verifier in sorted(verifiers, key=lambda v: v == "-"):
        cells = [share(at[verifier, s]) if (verifier, s) in at else "" for s in selectors]
        if verifier != "-":
            lines.append(f"| {short(verifier)} | " + " | ".join(cells) + " |")
    votes = ", ".join(f"{s} {share(at['-', s])}" for v, s in at if v == "-")
    return "\n".join([*lines, "", f"Without a verifier: {votes}."])


def stages(directory: Path) -> str:
    """Accuracy of the stage beam of two with each verifier, as Markdown."""
    lines = [
        "| search | accuracy, % | over greedy, points | p (Holm) | verifier: prefilled / generated |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in json.loads((directory / "stages.json").read_text()):
        gain, p = row["against_greedy"], row["p_greedy"]
        told = ("", "") if gain is None else (f"{100 * gain['value']:+.1f} ± {100 * gain['error']:.1f}", f"{p:.3f}")
        cost = f"{row['verifier_prefilled']['value']:.0f} / {row['verifier_generated']['value']:.0f}"
        lines.append(f"| {row['cell']} | {share(row['accuracy'])} | {told[0]} | {told[1]} | {cost} |")
    return "\n".join(lines)


def short(verifier: str) -> str:
    """Without the wrapper that asks it of the embedded model."""
    return verifier.replace("on-model(verifier=", "").replace(")", "", verifier.count("on-model(verifier="))


def write_page() -> None:
    """Puts both tables into the page."""
    text = PAGE.read_text()
    for name, made_of in (("samples", chosen), ("stages", stages)):
        head, rest = text.split(f"<!-- {name} -->\n")
        text = (
            head + f"<!-- {name} -->\n" + made_of(TARGET) + f"\n<!-- /{name} -->" + rest.split(f"<!-- /{name} -->")[1]
        )
    PAGE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="given", type=Path, help="a directory with finished runs")
    directory = parser.parse_args().given
    if directory is None:
        directory = ROOT / "runs/selection"
        made(directory)
    publish(directory)
    write_page()


if __name__ == "__main__":
    main()
