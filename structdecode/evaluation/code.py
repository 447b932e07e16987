"""Which code makes a result: for each plug-in of a cell its module, and its version or a digest of its source.

Covered: strategy, verifiers, functions and objects however deeply they are nested, and the engine. Of an installed
distribution its name and version stand for its source. Of anything else (an editable install, a script, a file
beside it) the digest is of the file that defines it and of the files of the same package that it imports, directly or
not. What has no file (a notebook, ``exec``) has the source, or else the byte code, of the function or class, with its
defaults, the values that it closes over, and the functions and constants that it takes from the notebook.

Not covered: other packages that a plug-in imports (torch, transformers: their versions are in ``sessions.jsonl``), files
that it reads, and what it asks over a network.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from structdecode.core import registry
from structdecode.core.plain import digest_of, plain, unwrapped
from structdecode.evaluation.source import Entry, codes, engine, entry_of, file_of, is_engine

Code = dict[str, Entry]
"""Entries by where they are in a cell: ``strategy``, ``verifier``, ``verifier.members.a``, ..., ``engine``."""

CodeByCell = Mapping[str, Mapping[str, Entry]]
"""`Code` by the cell's name."""

_SCALARS = (str, int, float, bool, bytes, type(None))


def code_of(strategy: object, schema: object) -> Code:
    """The code that decides a cell's results."""
    return {**code_of_object(strategy, "strategy"), **code_of_object(schema, "schema"), "engine": engine()}


def code_of_object(value: object, place: str) -> Code:
    """The code of an object and of all that it holds."""
    walk = _Walk()
    walk.visit(value, place)
    return walk.found


def changes(earlier: Mapping[str, Entry], now: Mapping[str, Entry]) -> list[str]:
    """What differs, each in words: ``verifier 'mine' (my_module:score): its source is another``."""
    found = []
    for place in dict.fromkeys((*now, *earlier)):
        one, other = earlier.get(place), now.get(place)
        if one != other:
            entry = other or one or {}
            names = (registry.name_at(group, entry.get("what", "")) for group in ("strategies", "verifiers"))
            named = next((f" {name!r}" for name in names if name), "")
            keys = [k for k in ("what", "version", "source", "state") if (one or {}).get(k) != (other or {}).get(k)]
            how = "is new" if one is None else "is gone" if other is None else _how(keys, one, other)
            found.append(f"{place}{named} ({entry.get('what', '?')}): {how}")
    return found


def codes_of(study: Mapping[str, Any]) -> list[CodeByCell]:
    """All code that a ``study.json`` holds results of: what it was begun with, and what was accepted later."""
    begun = {cell["name"]: cell.get("code", {}) for cell in study["config"]["cells"]}
    return [begun, *(accepted["cells"] for accepted in study.get("accepted_code", ()))]


def code_changes(known: Sequence[CodeByCell], now: CodeByCell) -> list[str]:
    """In which cells code is none of the known, and what of it changed, in words; each change once."""
    found: dict[str, list[str]] = {}
    for name, code in now.items():
        if all(codes[name] != code for codes in known):
            for change in changes(known[-1][name], code):
                found.setdefault(change, []).append(name)
    return [f"{change} (cell {cells[0]!r}{_more(cells)})" for change, cells in found.items()]


def with_accepted(study: Mapping[str, Any], code: CodeByCell) -> dict[str, Any]:
    """A ``study.json`` that says that results of this code were accepted beside those it has."""
    known = codes_of(study)
    changed = code_changes(known, code)
    if not changed:
        return dict(study)
    entry = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "changed": changed, "cells": dict(code)}
    return {**study, "accepted_code": [*study.get("accepted_code", ()), entry]}


def _more(cells: Sequence[str]) -> str:
    return f" and {len(cells) - 1} more" if len(cells) > 1 else ""


def _how(keys: list[str], one: Entry, other: Entry) -> str:
    if "what" in keys:
        return f"was {one['what']}"
    if "version" in keys and "version" in one and "version" in other:
        return f"version {one['version']} is now {other['version']}"
    return "its source is another" if keys != ["state"] else "what it closes over is another"


# ------------------------------------------------------------------ from objects to entries


class _Walk:
    """Visits an object and all that it holds; what is being visited is not visited again."""

    def __init__(self) -> None:
        self.found: Code = {}
        self._open: set[int] = set()

    def visit(self, value: Any, place: str) -> None:
        if isinstance(value, _SCALARS) or id(value) in self._open:
            return
        self._open.add(id(value))
        try:
            self._visit(value, place)
        finally:
            self._open.discard(id(value))

    def _visit(self, value: Any, place: str) -> None:
        if isinstance(value, types.MethodType):
            self.visit(value.__self__, f"{place}.self")
            self.visit(value.__func__, place)
        elif isinstance(value, functools.partial):
            self.visit(value.func, place)
            self._children({"args": value.args, **value.keywords}, place)
        elif (function := unwrapped(value)) is not None:
            self._function(function, place)
        elif isinstance(value, type):
            self._class(value, place)
        elif isinstance(value, Mapping):
            self._children({str(key): item for key, item in value.items()}, place)
        elif isinstance(value, list | tuple | set | frozenset):
            self._children({str(at): item for at, item in enumerate(value)}, place)
        elif not isinstance(value, types.ModuleType):
            self._class(type(value), place)
            names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
            held = {name: getattr(value, name) for name in names} if names else getattr(value, "__dict__", {})
            self._children(held, "" if place == "strategy" else place)

    def _children(self, items: Mapping[str, Any], place: str) -> None:
        for name, item in items.items():
            self.visit(item, f"{place}.{name}" if place else name)

    def _function(self, function: types.FunctionType, place: str) -> None:
        entry = entry_of(function)
        state = _state(function)
        if any(state.values()):
            entry["state"] = digest_of(plain(state))
        self._children({name: item for part in state.values() for name, item in part.items()}, place)
        self._add(place, entry)

    def _class(self, kind: type, place: str) -> None:
        if is_engine(kind.__module__) or kind.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
            return
        entry = entry_of(kind)
        if file_of(kind) is None:
            members = {name: unwrapped(getattr(m, "__func__", m)) for name, m in vars(kind).items()}
            self._children({name: m for name, m in members.items() if m and m.__module__ == kind.__module__}, place)
            kept = {n: v for n, v in vars(kind).items() if members[n] is None and not n.startswith("__")}
            entry["state"] = digest_of(plain({n: v for n, v in kept.items() if isinstance(v, (*_SCALARS, tuple))}))
        for base in kind.__bases__:
            if base.__module__.partition(".")[0] != kind.__module__.partition(".")[0] or file_of(base) is None:
                self._class(base, f"{place}.{base.__qualname__}")
        self._add(place, entry)

    def _add(self, place: str, entry: Entry) -> None:
        if "version" in entry and place not in ("strategy", "verifier"):  # one line a package, however much is held
            package = entry["version"].split()[0]
            place, entry = f"package {package}", {"what": package, "version": entry["version"]}
        name = place
        while name in self.found and self.found[name] != entry:  # a mapping with a key of a field's name
            name += "'"
        self.found[name] = entry


def _state(function: types.FunctionType) -> dict[str, dict[str, Any]]:
    """What a function brings beside its source."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    positional = enumerate(function.__defaults__ or ())
    return {
        "closure": {name: cell.cell_contents for name, cell in cells if _is_set(cell)},
        "defaults": {**{f"default {at}": value for at, value in positional}, **(function.__kwdefaults__ or {})},
        "globals": _globals(function) if file_of(function) is None else {},
    }


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Constants, functions and classes of the same notebook that a function's body names."""
    names = sorted({name for code in codes(function.__code__) for name in code.co_names})
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, _SCALARS) or (getattr(value, "__module__", None) == function.__module__)
    }


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not bound yet
        return False
