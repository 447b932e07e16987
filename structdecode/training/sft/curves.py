"""Loss and accuracy over the steps of a run, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from structdecode.core.errors import MissingExtraError
from structdecode.core.paths import atomic


def load_pyplot() -> Any:
    """Matplotlib for files, without a screen. Raises `MissingExtraError`."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(journal: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Training and held-out loss; staged accuracy with its standard error in a second panel where it was measured.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    measured = [line for line in journal if "eval_accuracy" in line]
    figure, panels = pyplot.subplots(
        2 if measured else 1, 1, figsize=(7, 6 if measured else 3.6), sharex=True, squeeze=False
    )
    loss = panels[0][0]
    for name, label in (("loss", "training"), ("eval_loss", "held out")):
        line = [(row["step"], row[name]) for row in journal if row.get(name) is not None]
        if line:
            loss.plot(*zip(*line, strict=True), label=label, marker="o" if name == "eval_loss" else None, markersize=3)
    loss.set(ylabel="loss (nats a token)", yscale="log", title=title)
    loss.legend()
    if measured:
        accuracy = panels[1][0]
        accuracy.errorbar(
            [row["step"] for row in measured],
            [100 * row["eval_accuracy"] for row in measured],
            yerr=[100 * row["eval_accuracy_error"] for row in measured],
            marker="o", markersize=3, capsize=2, color="C2",
        )  # fmt: skip
        accuracy.set(ylabel="staged accuracy, %", ylim=(0, 100))
    panels[-1][0].set_xlabel("step")
    figure.tight_layout()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)
