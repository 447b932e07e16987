"""Where the candidates of a search stand in its drawing: a column a step from the root, no two edges crossing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from structdecode.core.types import Path
from structdecode.core.view.tree import Node, SearchTree

MOST = 1_500
"""Candidates that are drawn; a larger search is only listed."""
COLUMN, ROW = 200, 30
BOX_WIDTH, BOX_HEIGHT = 152, 24
LEFT, TOP, MARGIN = 34, 26, 6
"""Room for the root and for the stages' names, in pixels."""


@dataclass(frozen=True)
class Box:
    """A candidate; ``x, y`` are of its upper left corner."""

    node: Node
    x: float
    y: float
    passed: bool

    @property
    def score(self) -> str:
        """The last one it was given, short; empty where it has none."""
        values = [score.value for score in self.node.scores if score.value is not None]
        return f"{values[-1]:.3g}" if values else ""

    @property
    def kind(self) -> str:
        """A class of the style sheet: what became of it."""
        if self.node.kept:
            return "kept answer" if self.node.fate == "the answer" else "kept"
        return "invalid" if self.node.finish_reason == "invalid" else "passed" if self.passed else "cut"


@dataclass(frozen=True)
class Edge:
    """From a parent's right side to a child's left side."""

    start: tuple[float, float]
    end: tuple[float, float]
    kept: bool

    @property
    def line(self) -> str:
        """As SVG has it: a curve that leaves and arrives level."""
        (x, y), (to_x, to_y) = self.start, self.end
        middle = (x + to_x) / 2
        return f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"


class Drawing:
    """A search tree's boxes and edges, those on the way to the answer last, so that they lie on top."""

    box_width, box_height = BOX_WIDTH, BOX_HEIGHT

    def __init__(self, tree: SearchTree) -> None:
        self.tree = tree
        self.layers: list[list[Path]] = []
        layer: list[Path] = [()]
        while layer := [child for path in layer for child in tree.children.get(path, ())]:
            self.layers.append(layer)
        self.rows = max(map(len, self.layers), default=0)
        self._row = self._rows()

    @property
    def width(self) -> int:
        return LEFT + COLUMN * (len(self.layers) - 1) + BOX_WIDTH + MARGIN

    @property
    def height(self) -> int:
        return TOP + ROW * self.rows + MARGIN

    @property
    def root(self) -> tuple[float, float]:
        return MARGIN + 5.0, self._middle(())

    @cached_property
    def boxes(self) -> list[Box]:
        found = [
            Box(
                self.tree.node(path),
                self._left(path),
                self._middle(path) - BOX_HEIGHT / 2,
                bool(self.tree.children.get(path)),
            )
            for layer in self.layers
            for path in layer
        ]
        return sorted(found, key=lambda box: box.node.kept)

    @property
    def edges(self) -> list[Edge]:
        found = []
        for box in self.boxes:
            parent = box.node.path[:-1]
            start = (self._left(parent) + BOX_WIDTH, self._middle(parent)) if parent else self.root
            found.append(Edge(start, (box.x, self._middle(box.node.path)), box.node.kept))
        return found

    @property
    def heads(self) -> list[tuple[int, str]]:
        """Over each column the stage that all of it belongs to; nothing where they differ."""
        stages = [{self.tree.stage(path) for path in layer} for layer in self.layers]
        return [(LEFT + COLUMN * at, min(found)) for at, found in enumerate(stages) if len(found) == 1]

    def _left(self, path: Path) -> float:
        return LEFT + COLUMN * (len(path) - 1)

    def _middle(self, path: Path) -> float:
        return TOP + ROW * (self._row[path] + 0.5)

    def _rows(self) -> dict[Path, float]:
        """Each candidate as near to the middle of its siblings before their parent as the others of its layer let it."""
        found: dict[Path, float] = {(): (self.rows - 1) / 2}
        before: list[Path] = [()]
        for layer in self.layers:
            groups = ((parent, self.tree.children.get(parent, ())) for parent in before)
            wished = [found[parent] + at - (len(group) - 1) / 2 for parent, group in groups for at in range(len(group))]
            found.update(zip(layer, _spread(wished, self.rows), strict=True))
            before = layer
        return found


def _spread(wished: Sequence[float], rows: int) -> list[float]:
    """The rows nearest to those wished for (least squares), in their order and at least one apart, of so many rows.

    What is left once each place is counted off is to rise: isotonic regression, by pooling adjacent violators.
    """
    pools: list[tuple[float, int]] = []  # mean, members
    for at, row in enumerate(wished):
        mean, members = row - at, 1
        while pools and pools[-1][0] >= mean:
            before, count = pools.pop()
            mean, members = (mean * members + before * count) / (members + count), members + count
        pools.append((mean, members))
    free = rows - len(wished)
    offsets = [min(max(mean, 0.0), free) for mean, members in pools for _ in range(members)]
    return [offset + at for at, offset in enumerate(offsets)]
