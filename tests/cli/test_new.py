"""``structdecode new``: a package whose own tests pass as it is written, and mistakes that write nothing."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.cli import new
from structdecode.core.errors import ConfigError
from structdecode.testing import check_strategy, scripted

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("kind", ["verifier", "strategy"])
def test_a_new_package_passes_its_own_tests_and_is_found_by_place(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = f"my-new-{kind}", tmp_path / "package"
    getattr(new, kind)(name, folder)
    assert f"pip install -e {folder}" in capsys.readouterr().out
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    ((group, entries),) = project["entry-points"].items()
    module, _, made = entries[name].partition(":")
    assert group == {"verifier": "structdecode.verifiers", "strategy": "structdecode.strategies"}[kind]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(folder / "tests")
    tests = importlib.import_module(f"test_my_new_{kind}")
    ran = [test() for word, test in vars(tests).items() if word.startswith("test_")]
    assert ran and hasattr(importlib.import_module(module), made)
    place = f"{folder / module}.py:{made}"
    strategy = {"verifier": "best-of-n", "strategy": place}[kind]
    built = sd.build("strategies", strategy, {"verifier": place} if kind == "verifier" else {})
    assert sd.decode("How many?", backend=ScriptedBackend(scripted), strategy=built).best is not None
    for loaded in [word for word in sys.modules if word in (module, tests.__name__)]:
        del sys.modules[loaded]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Verifier", "lower-case words with hyphens between them, not 'My Verifier'"),
        ("../x", "not '../x'"), ("", "not ''"), ("9x", "not '9x'"), ("class", "not 'class'"),
        ("log-prob", "there is a verifier 'log-prob' already"),
    ],
)  # fmt: skip
def test_a_name_that_will_not_do_writes_nothing(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        new.verifier(name, tmp_path / "package")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already: choose another name or --out"):
        new.strategy("my-search", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_example_of_a_strategy_keeps_the_laws_and_stops_when_it_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "strategy-plugin")
    until_sure = importlib.import_module("structdecode_until_sure").UntilSure
    check_strategy(until_sure(n=5, at_once=2, enough=1e9))
    drawn = {
        enough: sd.decode(
            "How many?", backend=ScriptedBackend(scripted), strategy=until_sure(n=5, at_once=2, enough=enough)
        )
        for enough in (-1e9, 1e9)
    }
    assert [len(drawn[enough].draws) for enough in (-1e9, 1e9)] == [2, 5]
    with pytest.raises(ConfigError, match=r"at_once must be from 1 to n \(5\), not 6"):
        until_sure(n=5, at_once=6)
