"""The notebook runs, and what is committed of it is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples/first-look.ipynb"


def shown(notebook: Any) -> list[str]:
    """What each cell shows, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.get("text") or str(output.get("data", {}).get("text/plain", "")) for output in outputs]


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kinds = [[sorted(o.get("data", {})) for o in c.outputs] for c in notebook.cells if c.cell_type == "code"]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = shown(notebook)
    assert any(text.startswith("<Result '2'") for text in texts) and any("leaves" in c.source for c in notebook.cells)
    first = next(text for text in texts if "answer  score  draws" in text).splitlines()[1].split()
    assert first[1] == "2" and float(first[2]) == 0  # the verifier of one's own finds the right answer
    assert any("best-of-n/log-prob/n=4" in text for text in texts)
    rich = [{kind for o in c.outputs for kind in o.get("data", {})} for c in notebook.cells if c.cell_type == "code"]
    assert all({kind for o in stored for kind in o} <= found for stored, found in zip(kinds, rich, strict=True))
    assert any("text/html" in found for found in rich) and any("image/svg+xml" in found for found in rich)


def test_what_is_committed_is_executed_and_says_nothing_of_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(place in NOTEBOOK.read_text() for place in ("/tmp/", "/home/", "/root/", "site-packages"))
