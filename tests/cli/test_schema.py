"""The JSON Schemas of the YAML files: what is shipped fits them, and a mistake does not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from structdecode.cli.schema import Form, schema, schema_of
from structdecode.core.schemas import BUILT_IN
from structdecode.training.sft.recipe import Recipe

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
FILES = [
    *((Form.study, path) for path in sorted((ROOT / "examples" / "study").glob("*.yaml"))),
    *((Form.recipe, path) for path in sorted((ROOT / "structdecode" / "training" / "recipes").glob("*.yaml"))),
    *(
        (Form.verifier_recipe, path)
        for path in sorted((ROOT / "structdecode/training/recipes/verifier").glob("*.yaml"))
    ),
]


def mistakes(form: Form, content: Any) -> list[str]:
    checker = jsonschema.Draft202012Validator
    checker.check_schema(schema_of(form))
    return [error.message for error in checker(schema_of(form)).iter_errors(content)]


@pytest.mark.parametrize(("form", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_what_is_shipped_fits(form: Form, path: Path) -> None:
    assert mistakes(form, yaml.safe_load(path.read_text())) == []


def test_schemas_of_stages_fit() -> None:
    for built_in in BUILT_IN.values():
        content = json.loads(json.dumps(asdict(built_in)))
        del content["whole"]
        assert mistakes(Form.stages, content) == []
    assert mistakes(Form.stages, {"stages": [{"name": "PLAN"}]}) == []


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        (Form.study, {"data": "pocket:test"}, "'cells' is a required property"),
        (Form.study, {"data": "pocket:test", "cells": [{"strategy": "direct", "verifer": []}]}, "'verifer' was unexpected"),
        (Form.study, {"data": {"source": "x", "limit": "many"}, "cells": []}, "is not valid under any"),
        (Form.preset, {"settings": {}}, "'strategy' is a required property"),
        (Form.recipe, {"lr": "fast"}, "'fast' is not of type 'number'"),
        (Form.recipe, {"method": "half"}, "'half' is not one of ['full', 'lora', 'qlora']"),
        (Form.verifier_recipe, {"method": "qlora"}, "'qlora' is not one of ['head', 'lora', 'full', 'probe']"),
        (Form.recipe, {"betas": [0.9]}, "is too short"),
        (Form.stages, {"name": "x"}, "'stages' is a required property"),
        (Form.stages, {"stages": [{"begin": "<A>"}]}, "'name' is a required property"),
    ],
)  # fmt: skip
def test_a_mistake_does_not(form: Form, content: Any, message: str) -> None:
    assert any(message in found for found in mistakes(form, content)), mistakes(form, content)


def test_every_setting_of_a_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    schema(Form.recipe)
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in shown] == list(Recipe.__dataclass_fields__)
    schema(Form.study)
    assert "  strategy: text, default ''" in capsys.readouterr().out.splitlines()
