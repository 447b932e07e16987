"""The built-in schemas, and schemas from YAML or JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdecode.core.declared import read_declared
from structdecode.core.errors import ConfigError, SchemaError, UnknownNameError
from structdecode.core.reading import read_document
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

    Its name is the file's where it says none, and a stage's tags are ``<NAME>`` and ``</NAME>``.

    Raises:
        SchemaError: the file cannot be read, or a field is unknown or of the wrong type.
        MissingExtraError: a YAML file, and PyYAML is not installed.
    """
    try:
        content = read_document(path)
        if isinstance(content, Mapping):
            content = {"name": Path(path).stem, **content}
            if "whole" in content:
                raise UnknownNameError(f"key of a schema in {path}", "whole", ())
            if isinstance(content.get("stages"), list):
                content["stages"] = list(map(_with_tags, content["stages"]))
        return read_declared(Schema, content, str(path), "schema")
    except ConfigError as error:
        raise SchemaError(str(error)) from None


def _with_tags(stage: Any) -> Any:
    if not isinstance(stage, Mapping) or "name" not in stage or "begin" in stage or "end" in stage:
        return stage
    return {**stage, "begin": f"<{stage['name']}>", "end": f"</{stage['name']}>"}
