"""The study of examples/study/pocket.yaml, its report under docs/ and its table in PAGES: ``make study``.

Goes on where it was if it was stopped; with ``--run`` it takes a run directory that is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs/pocket-study"
PAGES = (ROOT / "README.md", ROOT / "docs/results.md")
KEPT = ("report.md", "report.html", "tables.json", "study.json", "figures")


def publish(run: Path) -> dict[str, Any]:
    """Copies what a reader needs; records and traces (some 500 MB) stay where they are. Returns the tables."""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name in KEPT:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, TARGET / name)
    tables: dict[str, Any] = json.loads((TARGET / "tables.json").read_text())
    return tables


def table(tables: dict[str, Any]) -> str:
    """Accuracy of each family of searches at the same number of computed tokens."""
    rows = tables["matched"]["matched_tokens"]
    multiples = sorted({row["multiple"] for row in rows})
    families = list(dict.fromkeys(row["family"] for row in rows))
    at = {(row["family"], row["multiple"]): row["accuracy"] for row in rows}
    lines = [
        "| accuracy, % ± standard error, at | " + " | ".join(f"{m}x" for m in multiples) + " |",
        "| --- |" + " ---: |" * len(multiples),
    ]
    for family in families:
        cells = [share(at[family, m]) if (family, m) in at else "" for m in multiples]
        lines.append(f"| {family.replace('/', ', ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(accuracy: dict[str, float | None]) -> str:
    """In percent with its standard error; with the interval where there is none (nothing varied, or nothing is known)."""
    value, error, low, high = (accuracy[key] for key in ("value", "error", "low", "high"))
    if value is None:
        return ""
    if error:
        return f"{100 * value:.1f} ± {100 * error:.1f}"
    known = low is not None and high is not None
    return f"{100 * value:.1f}" + (f" ({100 * low:.0f} to {100 * high:.0f})" if known else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run directory of the study")
    arguments = parser.parse_args()
    run = arguments.run
    if run is None:
        from structdecode.evaluation.commands import compare
        from structdecode.evaluation.study import load_study

        run = ROOT / "runs/pocket-study"
        if compare(load_study(ROOT / "examples/study/pocket.yaml"), run, concurrency=96, command=["make", "study"]):
            raise SystemExit("some questions failed: run it again")
    tables = publish(run)
    begin, end = "<!-- study -->\n", "<!-- /study -->"
    for page in PAGES:
        head, rest = page.read_text().split(begin)
        page.write_text(head + begin + table(tables) + "\n" + end + rest.split(end)[1])
    print(table(tables))


if __name__ == "__main__":
    main()
