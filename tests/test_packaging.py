from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    found = set()
    for folder, _, files in os.walk(ROOT / "structdecode", followlinks=True):
        if "__init__.py" in files:
            found.add(".".join(Path(folder).relative_to(ROOT).parts))
    return found


def test_listed_packages_are_those_on_disk() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_plugin_folders_are_links() -> None:
    for name in ("strategies", "verifiers"):
        link = ROOT / "structdecode" / name
        assert link.is_symlink() and os.readlink(link) == f"../{name}"


def pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source") / "p", tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "__pycache__", "runs")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignore)
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    return next(out.glob("*.whl"))


def test_wheel_holds_everything_and_no_top_level_strategies(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "structdecode").rglob("*.py") if "__pycache__" not in p.parts}
    modules |= {
        f"structdecode/{p.relative_to(ROOT)}" for d in ("strategies", "verifiers") for p in (ROOT / d).rglob("*.py")
    }
    templates = {str(p.relative_to(ROOT)) for p in (ROOT / "structdecode").rglob("templates/*")}
    assert modules <= names and templates <= names and len(templates) > 10
    weights = {f"structdecode/pocket/{model}/model.safetensors" for model in ("checkpoint", "verifier")}
    assert {"structdecode/py.typed", *weights} <= names
    assert {name.split("/")[0] for name in names} == {
        "structdecode",
        f"structdecode-{PROJECT['project']['version']}.dist-info",
    }


def test_third_party_plugins_are_found_and_a_broken_one_breaks_nothing(wheel: Path, tmp_path: Path) -> None:
    """Installed for real, beside each other, in a place of their own."""
    place = tmp_path / "site"
    for example in ("verifier-plugin", "broken-plugin"):
        source = tmp_path / example
        shutil.copytree(ROOT / "examples" / example, source)
        pip("install", "-q", "--no-deps", "--no-build-isolation", "--target", place, source)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [sys.executable, "-m", "structdecode", "list", "verifiers"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout)["verifiers"]
    assert found["shortest"]["settings"] == {"enough": 3}
    assert "p-true" in found and "broken" not in found
    assert "structdecode-broken" in done.stderr and "a_package_that_does_not_exist" in done.stderr
    use = ["generate", "--question", "Hi", "--strategy", "best-of-n", "--verifier", "broken"]
    failed = subprocess.run([*command[:3], *use], capture_output=True, text=True, env=environment)
    assert failed.returncode == 2 and "structdecode-broken" in failed.stderr and "Traceback" not in failed.stderr
