"""Any value as plain JSON and as a digest: the same in every process, and different where the value is."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def plain(value: Any) -> Any:
    """JSON-ready and complete: an object with its class and all that it holds, a function by its name.

    No address and no order of a set gets into it. What a function does is not in it: see `evaluation.code`.
    """
    return _plain(value, ())


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    if value is None or (isinstance(value, str | int | float | bool) and not isinstance(value, enum.Enum)):
        return value
    if id(value) in around:
        return {"again": len(around) - around.index(id(value))}
    inner = (*around, id(value))
    if isinstance(value, Mapping):
        return {_key(key, inner): _plain(item, inner) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, inner) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted((_plain(item, inner) for item in value), key=_canonical)}
    if isinstance(value, functools.partial):
        return {
            "partial": _plain(value.func, inner),
            "args": _plain(value.args, inner),
            **_plain(value.keywords, inner),
        }
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": _plain(value.__self__, inner)}
    known = _known(value)
    return _object(value, inner) if known is None else known


def _known(value: Any) -> Any:
    """Of the kinds that say what they are in a few words."""
    if isinstance(value, type | types.ModuleType) or unwrapped(value) is not None:
        return getattr(value, "__qualname__", getattr(value, "__name__", "?"))
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, re.Pattern):
        return {"pattern": plain(value.pattern), "flags": value.flags}
    if isinstance(value, bytes | bytearray):
        return {"bytes": hashlib.blake2b(value, digest_size=16).hexdigest()}
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        return {
            "tensor": str(value.dtype),
            "shape": list(value.shape),
            **_known(flat.view(torch.uint8).numpy().tobytes()),
        }
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        if value.dtype == object:
            return {"array": plain(value.tolist()), "shape": list(value.shape)}
        return {"array": str(value.dtype), "shape": list(value.shape), **_known(value.tobytes())}
    return None


def _object(value: Any, inner: tuple[int, ...]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else None
    held = vars(value) if names is None and hasattr(value, "__dict__") else {n: getattr(value, n) for n in names or ()}
    if names is None and not held and isinstance(getattr(type(value), "__slots__", None), tuple):
        held = {name: getattr(value, name) for name in type(value).__slots__ if hasattr(value, name)}
    return {"class": type(value).__qualname__, **_plain(dict(held), inner)}


def unwrapped(value: Any) -> types.FunctionType | None:
    """The Python function that a value is, or is a wrapper of (``functools.cache``)."""
    while not isinstance(value, types.FunctionType):
        if isinstance(value, type) or not callable(value) or not hasattr(value, "__wrapped__"):
            return None
        value = value.__wrapped__
    return value


def _key(key: Any, inner: tuple[int, ...]) -> str:
    return key if isinstance(key, str) else _canonical(_plain(key, inner))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of(value: Any) -> str:
    """128 bits of the canonical JSON of a plain value."""
    return hashlib.blake2b(_canonical(value).encode(), digest_size=16).hexdigest()
