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

from structdecode.core.torchvision_import import tolerate_missing_operators

__version__ = "0.2.0"

if TYPE_CHECKING:
    from structdecode.backends.scripted import ScriptedBackend as ScriptedBackend
    from structdecode.backends.transformers import TransformersBackend as TransformersBackend
    from structdecode.core.budget import Budget as Budget
    from structdecode.core.budget import Usage as Usage
    from structdecode.core.engine import adecode as adecode
    from structdecode.core.engine import astream as astream
    from structdecode.core.engine import decode as decode
    from structdecode.core.errors import StructdecodeError as StructdecodeError
    from structdecode.core.many import Task as Task
    from structdecode.core.many import decode_many as decode_many
    from structdecode.core.registry import strategy as strategy
    from structdecode.core.registry import verifier as verifier
    from structdecode.core.results import Result as Result
    from structdecode.core.schemas import COT as COT
    from structdecode.core.schemas import DIRECT as DIRECT
    from structdecode.core.schemas import LLAVA_O1 as LLAVA_O1
    from structdecode.core.settings import build as build
    from structdecode.core.types import Candidate as Candidate
    from structdecode.core.types import Message as Message
    from structdecode.core.types import Prompt as Prompt
    from structdecode.core.types import Ranked as Ranked
    from structdecode.core.types import Sampling as Sampling
    from structdecode.core.types import Schema as Schema
    from structdecode.core.types import Score as Score
    from structdecode.core.types import Span as Span
    from structdecode.core.types import Stage as Stage
    from structdecode.core.types import rank as rank

_HOMES = {
    "structdecode.backends.scripted": ["ScriptedBackend"],
    "structdecode.backends.transformers": ["TransformersBackend"],
    "structdecode.core.budget": ["Budget", "Usage"],
    "structdecode.core.engine": ["adecode", "astream", "decode"],
    "structdecode.core.errors": ["StructdecodeError"],
    "structdecode.core.many": ["Task", "decode_many"],
    "structdecode.core.registry": ["strategy", "verifier"],
    "structdecode.core.results": ["Result"],
    "structdecode.core.schemas": ["COT", "DIRECT", "LLAVA_O1"],
    "structdecode.core.settings": ["build"],
    "structdecode.core.types": [
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
