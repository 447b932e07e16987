"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from structdecode.core.paths import atomic, write_atomically


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as partial:
        partial.write_text("half of the n")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_what_ends_well_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "new"
