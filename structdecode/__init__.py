"""Pluggable decoding strategies for staged, tag-delimited generation with vision-language models.

>>> import structdecode as sd
>>> backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"I see {stage.name}.{stage.end}")
>>> result = sd.decode(sd.Prompt("What is this?"), backend=backend, strategy="staged")
>>> result.answer
'I see CONCLUSION.'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from structdecode.torchvision_import import tolerate_missing_operators

__version__ = "0.1.0"

if TYPE_CHECKING:
    from structdecode.backends.scripted import ScriptedBackend as ScriptedBackend
    from structdecode.backends.transformers import TransformersBackend as TransformersBackend
    from structdecode.budget import Budget as Budget
    from structdecode.budget import Usage as Usage
    from structdecode.engine import adecode as adecode
    from structdecode.engine import astream as astream
    from structdecode.engine import decode as decode
    from structdecode.errors import StructdecodeError as StructdecodeError
    from structdecode.many import Task as Task
    from structdecode.many import decode_many as decode_many
    from structdecode.registry import strategy as strategy
    from structdecode.registry import verifier as verifier
    from structdecode.results import Result as Result
    from structdecode.schemas import COT as COT
    from structdecode.schemas import DIRECT as DIRECT
    from structdecode.schemas import LLAVA_O1 as LLAVA_O1
    from structdecode.types import Candidate as Candidate
    from structdecode.types import Message as Message
    from structdecode.types import Prompt as Prompt
    from structdecode.types import Ranked as Ranked
    from structdecode.types import Sampling as Sampling
    from structdecode.types import Schema as Schema
    from structdecode.types import Score as Score
    from structdecode.types import Span as Span
    from structdecode.types import Stage as Stage
    from structdecode.types import rank as rank

_HOMES = {
    "structdecode.backends.scripted": ["ScriptedBackend"],
    "structdecode.backends.transformers": ["TransformersBackend"],
    "structdecode.budget": ["Budget", "Usage"],
    "structdecode.engine": ["adecode", "astream", "decode"],
    "structdecode.errors": ["StructdecodeError"],
    "structdecode.many": ["Task", "decode_many"],
    "structdecode.registry": ["strategy", "verifier"],
    "structdecode.results": ["Result"],
    "structdecode.schemas": ["COT", "DIRECT", "LLAVA_O1"],
    "structdecode.types": [
        "Candidate", "Message", "Prompt", "Ranked", "Sampling", "Schema", "Score", "Span", "Stage", "rank",
    ],
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME_OF, "__version__"])

tolerate_missing_operators()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'structdecode' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
