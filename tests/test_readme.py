"""The README's code runs as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from structdecode.core import registry
from structdecode.pocket import world

README = (Path(__file__).parent.parent / "README.md").read_text()


def snippet(name: str) -> str:
    match = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    return match.group(1)


def test_verifier_snippet() -> None:
    code = snippet("verifier")
    assert len(code.strip().splitlines()) < 10
    exec(code, {})
    verifier = registry.build("verifiers", "mentions-red")
    from structdecode.testing import check_verifier

    check_verifier(verifier)


def test_embedding_snippet(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"picture": next(world.scenes("test")).render()}
    code = snippet("embed")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    exec(code, names)
    assert names["result"].answer and names["result"].answer in capsys.readouterr().out


def test_no_placeholders_left() -> None:
    assert "ACCURACY_WORDS" not in README and "BENCH_TABLE" not in README
    table = README.split("<!-- accuracy -->")[1].split("<!-- /accuracy -->")[0]
    assert len(re.findall(r"± \d", table)) > 20
