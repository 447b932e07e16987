"""Which room may import which: arrows go one way, so each can be read, used and replaced without what stands on it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "structdecode"
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "matching": {"core"},
    "pocket": {"core"},
    "backends": {"core"},
    "pools": {"core"},
    "selection": {"core", "matching"},
    "data": {"core", "matching", "pocket"},
    "records": {"core", "matching", "data"},
    "verifiers": {"core", "matching", "pocket", "backends"},
    "strategies": {"core", "matching", "selection", "verifiers"},
    "evaluation": {"core", "matching", "data", "records", "pools", "selection"},
    "training": {"core", "matching", "data", "records", "pocket", "backends", "verifiers", "strategies"},
    "integrations": {"core", "matching"},
}
"""Below the command line, which may import them all, and the package itself, which names what users import."""


def modules() -> Iterator[tuple[str, Path]]:
    folders = [PACKAGE, PACKAGE / "strategies", PACKAGE / "verifiers"]  # links, which rglob passes over
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"), path


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(path: Path) -> Iterator[str]:
    """Whatever is imported anywhere in a file, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, dict[str, set[str]]]:
    """Room -> room -> "module imports name"."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, path in modules():
        for name in imported(path):
            here, there = room_of(module), room_of(name)
            if name.startswith("structdecode.") and here != there:
                found[here][there].add(f"{module} imports {name}")
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_stands_on(room: str) -> None:
    outside = {arrow for there, seen in arrows()[room].items() if there not in ALLOWED[room] for arrow in seen}
    assert not outside, "\n".join(sorted(outside))


def test_every_room_is_named_here() -> None:
    rooms = {room_of(module) for module, path in modules() if path.parent != PACKAGE}
    assert rooms == {*ALLOWED, "cli"}
    assert set(arrows()) >= {"evaluation", "training", "cli"}, "imports are found"


def test_there_is_no_circle() -> None:
    done: list[str] = []
    while len(done) < len(ALLOWED):
        ready = [room for room, below in ALLOWED.items() if room not in done and below <= set(done)]
        assert ready, set(ALLOWED) - set(done)
        done += ready
