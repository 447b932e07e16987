"""Plug-ins without a package: ``file.py:Name`` and ``package.module:Name``, wherever a plug-in is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.assembly import assemble
from structdecode.core.errors import ConfigError
from structdecode.core.labels import label_of
from structdecode.core.lookup import find_schema, load_backend
from structdecode.core.settings import build, verifier_from
from structdecode.evaluation.cells import CellTemplate, expand
from structdecode.evaluation.source import entry_of
from structdecode.testing import scripted
from tests import processes

SOURCE = """
from __future__ import annotations

import functools
from dataclasses import dataclass

import helper
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.types import Schema, Score, Stage, rank


@dataclass(frozen=True)
class Shortest:
    enough: int = 3

    async def score(self, prompt, candidates, model):
        return [Score(-float(max(self.enough, len(c.text)))) for c in candidates]


class Plain:
    async def score(self, prompt, candidates, model):
        return [Score(helper.WEIGHT) for _ in candidates]


@dataclass(frozen=True)
class Two:
    temperature: float = 1.0

    async def __call__(self, schema, decoder):
        open_ = [decoder.root]
        for stage in schema.stages:
            open_ = await decoder.extend(open_, stage, n=1)
        return rank(open_, [Score(0.0)] * len(open_))


def shortest(candidate):
    return -len(candidate.text)


def weighted(weight, candidate):
    return weight


@dataclass(frozen=True)
class Loaded:
    name: str = "mine"

    @classmethod
    def load(cls, name, *, device=None):
        return made


strict = Shortest(9)
partial = functools.partial(weighted, 2.0)
SHORT = Schema("short", (Stage.tagged("A"), Stage.tagged("B")))
NUMBER = 5
made = ScriptedBackend(lambda prompt, prefix, stage, seed: f"x {stage.end}")


def open_it(name, **options):
    return made
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file of plug-ins and a package of the same; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "helper.py").write_text("WEIGHT = 2.0\n")
    (tmp_path / "a_package_of_plugins").mkdir()
    (tmp_path / "a_package_of_plugins/inner.py").write_text(SOURCE)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("source", ["mine.py", "./mine.py", "a_package_of_plugins.inner"])
@pytest.mark.parametrize("name", ["Shortest", "Plain", "shortest", "strict", "partial"])
def test_every_kind_of_verifier_scores(here: Path, source: str, name: str) -> None:
    strategy, used, strategy_name = assemble("best-of-n", f"{source}:{name}", {"n": 2})
    assert (used, strategy_name) == (name, "best-of-n")
    result = sd.decode("Hi?", backend=ScriptedBackend(scripted), strategy=strategy)
    assert result.candidates[0].score.value is not None


def test_settings_are_read_as_those_of_any_other(here: Path) -> None:
    assert build("verifiers", "mine.py:Shortest", {"enough": "7"}).enough == 7
    assert build("verifiers", "mine.py:strict").enough == 9
    assert build("verifiers", "mine.py:strict", {"enough": "4"}).enough == 4
    with pytest.raises(ConfigError, match="enough must be a whole number, not 'x'"):
        build("verifiers", "mine.py:Shortest", {"enough": "x"})
    with pytest.raises(ConfigError, match="unknown setting of"):
        build("verifiers", "mine.py:Plain", {"enough": "7"})


@pytest.mark.parametrize(
    "given",
    [
        {"ensemble": {"members": {"a": "mine.py:shortest", "b": {"mine.py:Shortest": {"enough": 2}}}}},
        "{ensemble: {members: {a: 'mine.py:shortest', b: {mine.py:Shortest: {enough: 2}}}}}",
        '{"name": "ensemble", "members": {"a": "mine.py:shortest", "b": {"name": "mine.py:Shortest", "enough": 2}}}',
    ],
)
def test_verifiers_inside_verifiers(here: Path, given: object) -> None:
    made = verifier_from(given)
    assert made.members["b"].enough == 2
    assert label_of(made) == "ensemble(a=shortest, b=Shortest)"


def test_cells_are_called_by_the_name_behind_the_colon(here: Path) -> None:
    cells = expand([CellTemplate("best-of-n", verifiers=("mine.py:Shortest", {"mine.py:strict": {"enough": 1}}))], [0])
    assert [(cell.name, cell.verifier_name) for cell in cells] == [
        ("best-of-n/Shortest", "Shortest"),
        ("best-of-n/strict", "strict"),
    ]
    (cell,) = expand([CellTemplate("mine.py:Two", schema="mine.py:SHORT", sweep={"temperature": [0.5]})], [0])
    assert (cell.name, cell.strategy_name, cell.schema.name) == ("Two/temperature=0.5", "Two", "short")
    assert cell.code["strategy"]["what"] == "mine:Two"


def test_from_python(here: Path) -> None:
    schema = find_schema("mine.py:SHORT")
    backend = load_backend(backend="mine.py:made")
    result = sd.decode("Hi?", backend=backend, strategy="mine.py:Two", schema="a_package_of_plugins.inner:SHORT")
    assert schema == find_schema("a_package_of_plugins.inner:SHORT") and result.trace.header["schema"] == "short"


def test_backends(here: Path) -> None:
    for name in ("made", "Loaded", "open_it"):
        assert load_backend(backend=f"mine.py:{name}").name == "scripted"
    with pytest.raises(ConfigError, match="has its model: leave --model, --device out"):
        load_backend("m", backend="mine.py:made", device="cpu", dtype=None)
    with pytest.raises(ConfigError, match="takes no engine: leave --engine out"):
        load_backend("m", backend="mine.py:Loaded", engine="plain")
    with pytest.raises(ConfigError, match="which has no method 'open'"):
        (here / "odd.py").write_text("def load(name):\n    return 3\n")
        load_backend(backend="odd.py:load")


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("verifiers", "none.py:X", "verifier 'none.py:X' cannot be loaded: No such file or directory"),
        ("verifiers", "folder.py:X", "cannot be loaded: Is a directory"),
        ("verifiers", "mine.py:Shortes", "unknown name in mine.py 'Shortes'; did you mean 'Shortest'?"),
        ("verifiers", "mine.py:strict.none", "unknown name in mine.py 'strict.none'"),
        ("verifiers", "mine.py", "say which one: mine.py:NAME"),
        ("verifiers", "mine.py:", "say which one: mine.py:NAME"),
        ("verifiers", ":X", "say which one: X:NAME"),
        ("verifiers", "./mine:X", "./mine is neither a file that ends in .py nor a module's name"),
        ("verifiers", "no_such_package.x:X", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("verifiers", "syntax.py:X", "not Python: invalid syntax, line 2"),
        ("verifiers", "nothing.py:X", "not Python: source code string cannot contain null bytes"),
        ("verifiers", "latin.py:X", "not Python: (unicode error)"),
        ("verifiers", "raises.py:X", "ValueError: several lines"),
        ("verifiers", "exits.py:X", "SystemExit: 3"),
        ("verifiers", "ours.py:X", "ConfigError: mine"),
        ("verifiers", "relative.py:X", "ImportError: attempted relative import"),
        ("verifiers", "mine.py:NUMBER", "verifier 'mine.py:NUMBER' is 5, not a class or object with score or compare, or a function"),
        ("verifiers", "mine.py:Two", "not a class or object with score or compare, or a function"),
        ("strategies", "mine.py:Shortest", "not a class or object with __call__, or a function"),
        ("schemas", "mine.py:NUMBER", "schema 'mine.py:NUMBER' is 5, not a Schema"),
        ("schemas", "mine.py:Shortest", "not a Schema"),
        ("backends", "mine.py:NUMBER", "not a class or object with load or open, or a function"),
        ("verifiers", "raising.py:Mine", "'raising.py:Mine' cannot be made: OSError: no weights"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(here: Path, group: registry.Group, name: str, message: str) -> None:
    (here / "folder.py").mkdir()
    (here / "syntax.py").write_text("x = 1\ndef (:\n")
    (here / "nothing.py").write_bytes(b"\x00\x01\x02")
    (here / "latin.py").write_bytes("x = 'é'".encode("latin-1"))
    (here / "raises.py").write_text("raise ValueError('several\\nlines')")
    (here / "exits.py").write_text("import sys\nsys.exit(3)")
    (here / "ours.py").write_text("from structdecode.core.errors import ConfigError\nraise ConfigError('mine')")
    (here / "relative.py").write_text("from . import helper")
    (here / "raising.py").write_text(
        "class Mine:\n    def __init__(self): raise OSError('no weights')\n    def score(self): pass"
    )
    with pytest.raises(ConfigError) as caught:
        build(group, name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_stands_in_for_no_module_and_for_no_other_file(here: Path) -> None:
    (here / "json.py").write_text("def one(candidate):\n    return 1.0\n")
    (here / "other").mkdir()
    (here / "other/json.py").write_text("def one(candidate):\n    return 2.0\n")
    here_, there = (build("verifiers", f"{place}json.py:one").function for place in ("", "other/"))
    assert (here_(None), there(None)) == (1.0, 2.0)
    assert sys.modules["json"] is json
    assert entry_of(here_)["what"] == entry_of(there)["what"] == "json:one"


def test_a_changed_file_is_another_code_and_is_read_again(here: Path) -> None:
    place = here / "mine.py"
    seen = []
    for source in (SOURCE, SOURCE, SOURCE.replace("-len(candidate.text)", "+len(candidate.text)")):
        place.write_text(source)
        function = build("verifiers", "mine.py:shortest").function
        seen.append((entry_of(function)["source"], function(sd.Candidate())))
    assert seen[0] == seen[1] and seen[0][0] != seen[2][0]
    (here / "moved").mkdir()
    for name in ("mine.py", "helper.py"):
        (here / name).rename(here / "moved" / name)
    moved = build("verifiers", "moved/mine.py:shortest").function
    assert entry_of(moved)["source"] == seen[2][0], "where it lies is not part of it"


def test_a_comparison_notices_a_changed_file_and_backend(here: Path) -> None:
    (here / "fake.py").write_text("\n".join(["from structdecode.backends.scripted import ScriptedBackend", BACKEND]))
    study = "data: {source: 'pocket:test', limit: 2}\nbackend: 'fake.py:backend'\n"
    study += "cells: [{strategy: best-of-n, verifiers: ['mine.py:shortest']}]"
    (here / "study.yaml").write_text(study)
    command = ["compare", "study.yaml", "--out", "run", "--quiet"]
    assert processes.run(*command).returncode == 0
    assert "best-of-n/shortest" in (here / "run/report.md").read_text()
    (here / "mine.py").write_text(SOURCE.replace("-len(candidate.text)", "+len(candidate.text)"))
    done = processes.run(*command)
    assert done.returncode == 2 and "verifier.function (mine:shortest): its source is another" in done.stderr
    (here / "mine.py").write_text(SOURCE)
    assert processes.run(*command).returncode == 0
    (here / "fake.py").write_text((here / "fake.py").read_text().replace("yes", "no"))
    done = processes.run(*command)
    assert done.returncode == 2 and "model" in done.stderr and "Traceback" not in done.stderr


BACKEND = """
def write(prompt, prefix, stage, seed):
    return f"yes {stage.end}"

backend = ScriptedBackend(write)
"""


def test_the_command_line_takes_them_and_says_them_short(here: Path) -> None:
    command = ["generate", "--question", "Hi?", "--strategy", "best-of-n", "--set", "n=2", "--json"]
    command += ["--verifier", "mine.py:Shortest", "--schema", "mine.py:SHORT", "--backend", "mine.py:made"]
    found = json.loads(processes.run(*command).stdout)
    assert (found["verifier"], found["answer"]) == ("Shortest", "x\nx")
    done = processes.run("doctor", "--backend", "mine.py:made")
    assert done.returncode == 0, done.stdout
    assert "answers by stages" in done.stdout
