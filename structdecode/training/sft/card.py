"""The model card of a finished run: what it was made from, how, and how good it was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from structdecode.core.environment import machine, versions
from structdecode.core.paths import write_atomically
from structdecode.training.sft.accuracy import Accuracy
from structdecode.training.sft.recipe import Recipe


def write_card(path: Path, recipe: Recipe, name: str, facts: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Markdown with the front matter that model hubs read.

    Args:
        facts: of the data. figures: of the run, those that are None left out.
    """
    import yaml

    front = {
        "library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": ["structdecode", recipe.schema],
        **({"base_model": recipe.model} if recipe.model else {}),
    }  # fmt: skip
    settings = {key: value for key, value in recipe.as_dict().items() if value not in (None, [], {}, "")}
    sections = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# Model card: {name}",
        "Answers in stages; decode it with structdecode (`structdecode generate --model DIR --schema "
        f"{recipe.schema}`).",
        "## Measured\n\n" + facts_table({key: value for key, value in figures.items() if value is not None}),
        "## Data\n\n" + facts_table(facts),
        "## Made with\n\n"
        + facts_table({"seed": recipe.seed, **_made_with(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}),
        "## Recipe\n\n```yaml\n" + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) + "```",
    ]
    write_atomically(path, "\n\n".join(sections) + "\n")


def shown(accuracy: Accuracy) -> str:
    return f"{100 * accuracy.value:.1f} ± {100 * accuracy.error:.1f} % of {accuracy.questions} questions (greedy)"


def _made_with() -> dict[str, Any]:
    found = versions()
    for package in ("accelerate", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    about = machine()
    return {**found, "machine": about.get("gpus") or f"{about['cpus']} CPU cores ({about['processor']})"}


def facts_table(rows: Mapping[str, Any]) -> str:
    """Names and values in Markdown."""
    body = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"| | |\n| --- | --- |\n{body}"
