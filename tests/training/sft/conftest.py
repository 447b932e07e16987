from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.sft import sets


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mllama checkpoint."""
    return sets.write_model(tmp_path_factory.mktemp("base") / "mllama")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rows with pictures."""
    return sets.write_set(tmp_path_factory.mktemp("data") / "set", 20)


@pytest.fixture
def recipe_file(tmp_path: Path, base: Path, data: Path) -> Any:
    """Writes a recipe for the tiny model; keywords change it."""

    def write(**settings: Any) -> Path:
        path, schema = tmp_path / "recipe.yaml", tmp_path / "schema.json"
        schema.write_text(json.dumps(sets.SHORT))
        content = {**sets.TINY, "model": str(base), "data": str(data), "schema": str(schema), **settings}
        path.write_text(yaml.safe_dump(content))
        return path

    return write
