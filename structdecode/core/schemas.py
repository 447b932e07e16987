"""The built-in schemas, and schemas from YAML or JSON files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from structdecode.core.errors import SchemaError, UnknownNameError
from structdecode.core.reading import parse_json, parse_yaml, read_text
from structdecode.core.types import Sampling, Schema, Stage

_PAPER = Sampling(temperature=0.6, top_p=0.9, max_tokens=2048)
"""LLaVA-o1's own sampling (upstream `inference/demo/simple_inference.py`)."""

LLAVA_O1 = Schema(
    "llava-o1",
    (
        Stage.tagged("SUMMARY", sampling=_PAPER, visible=False),
        Stage.tagged("CAPTION", sampling=_PAPER, visible=False, needs_image=True),
        Stage.tagged("REASONING", sampling=_PAPER, visible=False),
        Stage.tagged("CONCLUSION", sampling=_PAPER),
    ),
)
"""The four stages of LLaVA-o1 (arXiv 2411.10440, section 3.1). The model needs no instruction: it was tuned for them."""

DIRECT = Schema("direct", (Stage("ANSWER", sampling=_PAPER),), "{question}\nAnswer directly.")
"""One open stage: the answer at once."""

COT = Schema("cot", (Stage("ANSWER", sampling=_PAPER),), "{question}\nThink step by step, then answer.")
"""One open stage: untagged chain of thought, the answer at its end."""

BUILT_IN = {schema.name: schema for schema in (LLAVA_O1, DIRECT, COT)}


def load_schema(path: str | Path) -> Schema:
    """Reads a schema from a ``.json`` or ``.yaml`` file with the fields of `Schema`, `Stage` and `Sampling`.

    Raises:
        SchemaError: the file cannot be read, or a field is unknown or of the wrong type.
        MissingExtraError: a YAML file, and PyYAML is not installed.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        data = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except ValueError as error:
        raise SchemaError(f"{path}: {error}") from None
    return _schema_from(data, path)


def _schema_from(data: Any, path: Path) -> Schema:
    if not isinstance(data, dict) or not isinstance(data.get("stages"), list):
        raise SchemaError(f"{path}: a schema is a mapping with 'name' and a list 'stages'")
    stages = []
    for entry in data["stages"]:
        given = dict(_known(entry, Stage, path))
        if "name" not in given:
            raise SchemaError(f"{path}: a stage has no 'name'")
        sampling = Sampling(**_known(given.pop("sampling", {}), Sampling, path))
        if "begin" not in given and "end" not in given:
            stages.append(Stage.tagged(sampling=sampling, **given))
        else:
            stages.append(Stage(sampling=sampling, **given))
    rest = {key: value for key, value in _known(data, Schema, path).items() if key != "stages"}
    return Schema(**{"name": path.stem, **rest, "stages": tuple(stages)})


def _known(entry: Any, kind: type, path: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SchemaError(f"{path}: {kind.__name__.lower()} {entry!r} is not a mapping")
    names = {f.name: f.type for f in fields(kind)}
    for key, value in entry.items():
        if key not in names:
            raise UnknownNameError(f"{kind.__name__.lower()} field in {path}", str(key), names)
        wanted = {"str": str, "bool": bool, "int": int, "float": (int, float)}.get(str(names[key]))
        if wanted and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):  # type: ignore[arg-type]
            raise SchemaError(f"{path}: {key} must be of type {names[key]}, not {value!r}")
    return entry
