"""``structdecode schema``."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer


class Form(StrEnum):
    stages = "stages"
    study = "study"
    preset = "preset"
    recipe = "recipe"
    verifier_recipe = "verifier-recipe"


def schema(
    of: Annotated[
        Form,
        typer.Argument(
            help="stages (a schema file), study (compare), preset (generate), recipe (train) or verifier-recipe (train-verifier)."
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="As a JSON Schema, for editors and checks.")] = False,
) -> None:
    """Show what a YAML file may hold: its keys and their types, with defaults.

    Example: `structdecode schema study --json > study.schema.json`, then `# yaml-language-server: $schema=study.schema.json` at the top of the YAML
    """
    found = schema_of(of)
    print(json_.dumps(found, indent=1, ensure_ascii=False) if json else "\n".join(_lines(found, "")))


def schema_of(form: Form) -> dict[str, Any]:
    """The JSON Schema of a kind of file, from the declarations that it is read by."""
    from structdecode.core.json_schema import json_schema

    if form is Form.study:
        from structdecode.evaluation.study import StudyFile

        return json_schema(StudyFile, "A study of structdecode compare")
    if form is Form.preset:
        from structdecode.core.presets import Preset

        return json_schema(Preset, "A preset of structdecode generate")
    if form is Form.recipe:
        from structdecode.training.sft.recipe import Recipe

        return json_schema(Recipe, "A recipe of structdecode train")
    if form is Form.verifier_recipe:
        from structdecode.training.reward_model.recipe import VerifierRecipe

        return json_schema(VerifierRecipe, "A recipe of structdecode train-verifier")
    from structdecode.core.types import Schema

    found = json_schema(Schema, "A schema of stages")
    found["required"] = ["stages"]  # the name is the file's, unless it is given
    del found["properties"]["whole"]  # said of parts of a schema, which no file is
    found["properties"]["stages"]["items"]["required"] = ["name"]  # tags are <NAME> and </NAME> unless given
    return found


def _lines(found: dict[str, Any], indent: str) -> list[str]:
    """A line a key, what is inside of it below."""
    lines = []
    for name, value in found.get("properties", {}).items():
        needed = ", required" if name in found["required"] else ""
        default = f", default {value['default']!r}" if "default" in value else ""
        lines.append(f"{indent}{name}: {_named(value)}{needed}{default}")
        for inner in _mappings(value):
            lines += _lines(inner, indent + "  ")
    return lines


def _mappings(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those with keys of their own that a value may be or hold."""
    if "properties" in value:
        yield value
    for inner in (*value.get("anyOf", ()), *([value["items"]] if "items" in value else ())):
        yield from _mappings(inner)


_NAMES = {"object": "mapping", "string": "text", "integer": "whole number", "boolean": "true or false", "null": "none"}


def _named(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(map(_named, value["anyOf"])))
    if "enum" in value:
        return " or ".join(map(str, value["enum"]))
    if value.get("type") == "array":
        return f"list of {_named(value['items'])}"
    kind = str(value.get("type", "anything"))
    return _NAMES.get(kind, kind)
