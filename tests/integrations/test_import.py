"""Both adapters import without their harness; a harness that is there but broken is not taken for a missing one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ADAPTERS = [("structdecode.integrations.lmms_eval", "lmms_eval"), ("structdecode.integrations.vlmevalkit", "vlmeval")]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(("module", "harness"), ADAPTERS)
def test_a_broken_harness_says_what_it_lacks(module: str, harness: str, tmp_path: Path) -> None:
    (tmp_path / harness).mkdir()
    (tmp_path / harness / "__init__.py").write_text("import something_that_is_not_there\n")
    done = run(f"import {module}", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0 and "No module named 'something_that_is_not_there'" in done.stderr


@pytest.mark.parametrize(("module", "harness"), ADAPTERS)
def test_without_the_harness_the_import_is_light(module: str, harness: str) -> None:
    if importlib.util.find_spec(harness) is not None:
        pytest.skip(f"{harness} is installed")
    done = run(f"import sys, {module}; print('torch' in sys.modules)")
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
