"""Drawing with matplotlib: SVG that is the same byte for byte each time, and follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from structdecode.core.errors import MissingExtraError

INK = "#1d2125"
"""Text and axes; `inline` puts the page's own text colour in its place."""
PAPER = "#fefefd"
FAINT = "#8a9099"
COLOURS = ("#3b7dd8", "#e0762f", "#2a9d5c", "#c8477f", "#8b63c9", "#b59a1e", "#20a5a5", "#96603f", "#7a8794", "#d1495b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", ":", "-.")


@contextmanager
def drawing(
    name: str, width: float, height: float, *, across: int = 1, down: int = 1
) -> Iterator[tuple[Any, Any, list[str]]]:
    """Yields figure, axes ([down][across]) and a list that holds the finished SVG once the block is left.

    Args:
        name: also the salt of the ids in the file, so that two figures on one page do not share any.
        width, height: in inches of 72 units.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib", "eval") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": name, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
        "savefig.facecolor": PAPER, "axes.grid": True, "grid.color": FAINT, "grid.alpha": 0.25, "legend.frameon": False,
        "text.parse_math": False,
    }  # fmt: skip
    out: list[str] = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings, "backend": matplotlib.rcParams["backend"]}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across, squeeze=False)
        yield figure, axes, out
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        out.append(_clean(buffer.getvalue()))


def inline(svg: str) -> str:
    """The SVG inside a page: no XML head, no paper, text in the page's colour."""
    body = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "none")
    return body.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")


def _clean(svg: str) -> str:
    """Without comments and metadata, and without the ids of groups, which nothing refers to."""
    svg = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'<g id="[A-Za-z0-9]+_\d+">', "<g>", svg)


@dataclass(frozen=True)
class SeriesStyle:
    """How a family is drawn, in every figure: the colour tells the strategy, marker and line the verifier."""

    colour: str
    marker: str
    line: str


def series_styles(families: Mapping[str, tuple[str, str | None]]) -> dict[str, SeriesStyle]:
    """By family, given its strategy and verifier."""
    strategies = list(dict.fromkeys(strategy for strategy, _ in families.values()))
    verifiers = list(dict.fromkeys(verifier for _, verifier in families.values()))
    return {
        family: SeriesStyle(
            COLOURS[strategies.index(strategy) % len(COLOURS)],
            MARKERS[verifiers.index(verifier) % len(MARKERS)],
            LINES[verifiers.index(verifier) % len(LINES)],
        )
        for family, (strategy, verifier) in families.items()
    }


def short(name: str, limit: int = 44) -> str:
    """A cell's name for a figure, on one line; matplotlib leaves labels with a leading underscore out."""
    name = " ".join(name.split())
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return f" {name}" if name.startswith("_") else name


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend under the axes, in as many columns as its longest label leaves room for."""
    longest = max(map(len, labels), default=1)
    columns = max(1, min(3, 105 // (longest + 8), len(labels)))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=8.5, handlelength=2.6)
