"""The code of README.md and docs/ runs as printed, and the commands and options that they name exist.

A page's Python blocks run in order, in one namespace. A block that does not run has a comment above it that says why:
``<!-- not run: needs a GPU -->``.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.study import PAGES, share, table
from structdecode.cli.main import app
from structdecode.core import registry
from structdecode.core.presets import load_preset
from structdecode.core.reading import parse_yaml
from structdecode.core.schemas import load_schema
from structdecode.evaluation.study import load_study
from structdecode.training.sft.recipe import load_recipe
from structdecode.verifiers.recipes.recipe import Recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+) -->\n+)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELL = ("console", "sh", "bash")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str
    reason: str | None


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        text = path.read_text()
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("text")) + 1
            yield Block(str(path.relative_to(ROOT)), line, found["kind"], found["text"], found["reason"])


BLOCKS = list(blocks())
PYTHON = {page: [b for b in BLOCKS if b.page == page and b.kind == "python"] for page in {b.page for b in BLOCKS}}


@pytest.mark.parametrize("page", sorted(page for page, found in PYTHON.items() if found))
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))  # names of a page stay on it
    names: dict[str, Any] = {"__name__": page}
    for block in PYTHON[page]:
        code = compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec", dont_inherit=True)
        if block.reason is None:
            exec(code, names)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "yaml"], ids=lambda b: f"{b.page}:{b.line}")
def test_yaml_is_read(block: Block, tmp_path: Path) -> None:
    """By what it is: a study has cells, a schema stages, a recipe of a reward model what it is about; all else is a recipe of training."""
    path = tmp_path / "block.yaml"
    path.write_text(block.text)
    content = parse_yaml(block.text)
    reads = {"cells": load_study, "stages": load_schema, "strategy": load_preset, "about": Recipe.load}
    next((read for key, read in reads.items() if key in content), load_recipe)(str(path))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of structdecode's in a shell block, as words behind the program's name."""
    for block in BLOCKS:
        for line in block.text.replace("\\\n", " ").splitlines() if block.kind in SHELL else ():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            for start in (["structdecode"], ["-m", "structdecode"]):
                at = next((i for i in range(len(words)) if words[i : i + len(start)] == start), None)
                if at is not None and (at == 0 or start[0] == "-m"):
                    yield f"{block.page}:{block.line}", words[at + len(start) :]


COMMANDS = list(commands())


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{p} {' '.join(w[:2])}" for p, w in COMMANDS])
def test_commands_and_options_exist(place: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    left = list(words)
    while hasattr(command, "commands"):
        assert left and left[0] in command.commands, f"{place}: no command {left[:1]}"
        command = command.commands[left.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [word for word in left if word.startswith("--") and word.split("=")[0] not in known]
    assert not unknown, f"{place}: {command.name} has no {unknown}"


def named(pattern: str) -> set[str]:
    """What the documents name, but for what was before something moved (the first column there)."""
    pages = {path: path.read_text() for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]}
    moved = ROOT / "docs/moved.md"
    pages[moved] = "\n".join(
        re.sub(r"^\|[^|]*", "", line) for line in pages[moved].splitlines() if "in `docs/" not in line
    )
    return {name.rstrip(".") for text in pages.values() for name in re.findall(pattern, text)}


def test_files_that_are_named_exist() -> None:
    files = named(r"`((?:structdecode|tests|examples|benchmarks|docs|strategies|verifiers)/[\w./-]*)")
    assert len(files) > 20
    assert sorted(name for name in files if not (ROOT / name).exists()) == []


def test_names_that_are_named_exist() -> None:
    names = named(r"`(structdecode(?:\.\w+)+)") | named(r"python -m ((?:structdecode|benchmarks)\.[\w.]+)")
    assert len(names) > 10
    assert sorted(name for name in names if not is_there(name)) == []


def is_there(name: str) -> bool:
    """In this checkout, whatever else is installed."""
    *above, last = name.split(".")
    if any((ROOT.joinpath(*above) / found).exists() for found in (last, f"{last}.py")):
        return True
    return hasattr(importlib.import_module(".".join(above)), last)


def test_few_blocks_do_not_run_and_all_have_a_known_language() -> None:
    python = [block for block in BLOCKS if block.kind == "python"]
    assert len(python) > 30 and len(COMMANDS) > 30
    assert len([block for block in python if block.reason]) <= 3
    assert {b.kind for b in BLOCKS} <= {"python", "yaml", "json", "toml", *SHELL}, "name the language of every block"


def test_readme_is_short_and_its_examples_are() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
    for block in PYTHON["README.md"]:
        assert len([line for line in block.text.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_studys_table_is_that_of_its_report(page: Path) -> None:
    tables = json.loads((ROOT / "docs/pocket-study/tables.json").read_text())
    assert page.read_text().split("<!-- study -->\n")[1].split("\n<!-- /study -->")[0] == table(tables)


def test_the_reward_models_table_is_that_of_its_report() -> None:
    tables = json.loads((ROOT / "docs/reward-study/tables.json").read_text())
    cells = {cell["cell"]: cell for cell in tables["accuracy"]["cells"]}
    computed = ("generated", "prefilled", "verifier_generated", "verifier_prefilled")
    page = (ROOT / "docs/training/reward-model.md").read_text().replace("**", "")
    for search, n in itertools.product(("best-of-n", "stage-beam"), (4, 8, 16)):
        found = [cells[f"{search}/{verifier}/n={n}"] for verifier in ("log-prob", "self-judge", "reward-model")]
        shares = " | ".join(share(cell["accuracy"]) for cell in found)
        tokens = " / ".join(f"{sum(cell[part]['value'] for part in computed):,.0f}" for cell in found)
        assert re.search(rf"\| {search} \| {n} \| {shares} \| .* \| {tokens} \|", page)


def test_tables_have_standard_errors() -> None:
    text = (ROOT / "docs/results.md").read_text()
    assert len(re.findall(r"± \d", text.split("<!-- accuracy -->")[1].split("<!-- /accuracy -->")[0])) > 20
