"""What a run shows of itself: a model card, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from structdecode.core.paths import atomic
from structdecode.training.sft.card import facts_table
from structdecode.training.sft.curves import load_pyplot
from structdecode.verifiers.reward_model.config import RewardConfig

CARD = "README.md"


def table(figures: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Held-out figures with standard errors, as Markdown: a row a stage."""
    stages = [name for name in figures if name != "chosen"]
    lines = ["| at the end of | labelled good, % | loss, nats | accuracy, % | AUC |", "| --- | --- | --- | --- | --- |"]
    for name in stages:
        row = figures[name]
        lines.append(
            f"| {name} | {_percent(row['good'])} | {_number(row['loss'])} | {_percent(row['accuracy'])} | {_number(row['auc'])} |"
        )
    chosen = figures["chosen"]
    lines.append(
        f"\nOf each question's answers the one with the highest last value is labelled good in {_percent(chosen['chosen_right'])} % "
        f"(one at random: {_percent(chosen['chance'])} %, the best possible choice: {_percent(chosen['best possible'])} %)."
    )
    return "\n".join(lines)


def _percent(pair: Sequence[float]) -> str:
    return f"{100 * pair[0]:.1f} ± {100 * pair[1]:.1f}"


def _number(pair: Sequence[float]) -> str:
    return "one label only" if pair[0] != pair[0] else f"{pair[0]:.3f} ± {pair[1]:.3f}"


def write_card(directory: Path, config: RewardConfig, facts: Mapping[str, Any], name: str) -> None:
    """Markdown with the front matter that model hubs read."""
    import yaml

    versions = config.trained.get("versions", {})
    settings = {key: value for key, value in config.trained.items() if key != "versions"}
    front = {
        "library_name": "structdecode", "tags": ["structdecode", "reward-model", config.schema],
        "base_model": config.base_model,
    }  # fmt: skip
    sections = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# Reward model: {name}",
        "Says at the end of each stage of an answer how likely all is right so far. Use it as verifier "
        "`reward-model` of structdecode (`--verifier reward-model --set verifier.path=DIR`).",
        "## On held-out questions\n\n" + table(config.held_out) + "\n\n± is one standard error, over questions.",
        "## Data\n\n" + facts_table(facts),
        "## Made with\n\n"
        + facts_table({"seed": settings.get("seed"), **versions, "date": f"{datetime.now(UTC):%Y-%m-%d}"}),
        "## Settings\n\n```yaml\n" + yaml.safe_dump(settings, sort_keys=False) + "```",
    ]
    (directory / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def draw(journal: Sequence[dict[str, Any]], stages: Sequence[str], path: Path, title: str) -> None:
    """Loss over the steps, and AUC by stage on held-out questions.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure, (losses, areas) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True)
    for panel, key, label in (
        (losses, "loss", "training"), (losses, "eval_loss", "held out"),
        *((areas, f"eval_auc_{stage.lower()}", stage) for stage in stages),
        (areas, "eval_chosen_right", "share of choices that are right"),
    ):  # fmt: skip
        points = [(line["step"], line[key]) for line in journal if line.get(key) is not None]
        if points:
            held_out = key.startswith("eval")
            panel.plot(*zip(*points, strict=True), label=label, marker="o" if held_out else None, markersize=3)
    losses.set(ylabel="loss (nats a step)", title=title)
    areas.set(ylabel="held out: AUC by stage", xlabel="step")
    for panel in (losses, areas):
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    figure.tight_layout()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)
