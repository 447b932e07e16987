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

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
import textwrap
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from structdecode import registry
from structdecode.evaluation.plain import digest_of, plain, unwrapped

Entry = dict[str, str]
"""``what``: "module:qualname"; ``plugin``: its registered name; ``version``: of its distribution; ``source``, ``state``."""

Code = dict[str, Entry]
"""Entries by where they are in a cell: ``strategy``, ``verifier``, ``verifier.members.a``, ..., ``engine``."""

CodeByCell = Mapping[str, Mapping[str, Entry]]
"""`Code` by the cell's name."""

_PACKAGE = Path(__file__).parents[1]
_ENGINE = ("*.py", "backends/**/*.py", "evaluation/matching/**/*.py", *(f"evaluation/{n}.py" for n in (
    "isolation", "judging", "plain", "recording", "runner", "types",
)))  # fmt: skip
_FACES = {
    f"{n}.py" for n in ("__init__", "__main__", "assembly", "cli", "demo", "doctor", "paths", "presets", "terminal",
    "testing", "view")
}  # fmt: skip
"""Modules of our own that decide no result: what they decide is in a cell's settings."""

_GENERATED = {
    f"__{n}__" for n in ["init", "repr", "eq", "lt", "le", "gt", "ge", "hash", "setattr", "delattr", "replace"]
}
"""What a dataclass gets without a line of source."""

_SCALARS = (str, int, float, bool, bytes, type(None))


def code_of(strategy: object, schema: object) -> Code:
    """The code that decides a cell's results."""
    return {**code_of_object(strategy, "strategy"), **code_of_object(schema, "schema"), "engine": _engine()}


def code_of_object(value: object, place: str) -> Code:
    """The code of an object and of all that it holds."""
    walk = _Walk()
    walk.visit(value, place)
    return walk.found


def changes(earlier: Mapping[str, Entry], now: Mapping[str, Entry]) -> list[str]:
    """What differs, each in words: ``verifier 'mine' (my_module:score): source``."""
    found = []
    for place in dict.fromkeys((*now, *earlier)):
        one, other = earlier.get(place), now.get(place)
        if one != other:
            entry = other or one or {}
            named = f" {entry['plugin']!r}" if "plugin" in entry else ""
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
        entry = _entry(function, place)
        state = _state(function)
        if any(state.values()):
            entry["state"] = digest_of(plain(state))
        self._children({name: item for part in state.values() for name, item in part.items()}, place)
        self._add(place, entry)

    def _class(self, kind: type, place: str) -> None:
        if _is_engine(kind.__module__) or kind.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
            return
        entry = _entry(kind, place)
        if _file_of(kind) is None:
            members = {name: unwrapped(getattr(m, "__func__", m)) for name, m in vars(kind).items()}
            self._children({name: m for name, m in members.items() if m and m.__module__ == kind.__module__}, place)
            kept = {n: v for n, v in vars(kind).items() if members[n] is None and not n.startswith("__")}
            entry["state"] = digest_of(plain({n: v for n, v in kept.items() if isinstance(v, (*_SCALARS, tuple))}))
        for base in kind.__bases__:
            if base.__module__.partition(".")[0] != kind.__module__.partition(".")[0] or _file_of(base) is None:
                self._class(base, f"{place}.{base.__qualname__}")
        self._add(place, entry)

    def _add(self, place: str, entry: Entry) -> None:
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
        "globals": _globals(function) if _file_of(function) is None else {},
    }


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """Constants, functions and classes of the same notebook that a function's body names."""
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
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


def _entry(item: Any, place: str) -> Entry:
    entry = {"what": f"{item.__module__}:{item.__qualname__}"}
    group: registry.Group = "strategies" if place == "strategy" else "verifiers"
    plugin = registry.name_of(group, item)
    if plugin is not None:
        entry["plugin"] = plugin
    file = _file_of(item)
    if file is None:
        own = _own_source(item)
        return {**entry, "source": digest_of(own)} if own else entry
    released = _released(item.__module__) if _is_installed(file) else None
    return {**entry, "version": released} if released else {**entry, "source": _source(item.__module__, file)}


# ------------------------------------------------------------------ source


def _file_of(item: Any) -> Path | None:
    """The file that defines a function or class; None where there is none."""
    if isinstance(item, type):
        methods = [unwrapped(getattr(m, "__func__", m)) for n, m in vars(item).items() if n not in _GENERATED]
        written = [method for method in methods if method is not None and method.__module__ == item.__module__]
        if written:
            return next(filter(None, map(_file_of, written)), None)
        place = getattr(sys.modules.get(item.__module__), "__file__", None) or ""
    else:
        place = item.__code__.co_filename
    path = Path(place)
    return path if path.suffix == ".py" and path.is_file() else None


def _own_source(item: Any) -> Any:
    """Of what no file defines; its byte code where there is no text; nothing for what is built into Python."""
    try:
        return textwrap.dedent(inspect.getsource(item))
    except (OSError, TypeError):
        code = getattr(item, "__code__", None)
        return _byte_code(code) if code is not None else None


def _byte_code(code: types.CodeType) -> list[Any]:
    consts = [_byte_code(c) if isinstance(c, types.CodeType) else plain(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), consts]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _is_installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.absolute().parts))


@functools.cache
def _released(module: str) -> str | None:
    """Name, version and commit of the distribution that a module was installed from."""
    names = packages_distributions().get(module.partition(".")[0])
    try:
        found = distribution(names[0]) if names else None
    except PackageNotFoundError:
        return None
    if found is None:
        return None
    commit = json.loads(found.read_text("direct_url.json") or "{}").get("vcs_info", {}).get("commit_id")
    return " ".join(filter(None, (found.name, found.version, commit)))


def _source(module: str, file: Path) -> str:
    """Digest of a module's file and of those of the same package that it imports."""
    return digest_of(sorted((name, _digest(path)) for name, path in _reached(module, file).items()))


def _reached(module: str, file: Path) -> dict[str, Path]:
    depth = module.count(".") + (file.name == "__init__.py")
    root, top = file.absolute().parents[depth], module.partition(".")[0]
    alone = depth == 0  # a script or single module: what lies beside it belongs to it
    found, waiting = {module: file}, [(module, file)]
    while waiting:
        name, path = waiting.pop()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for wanted in _imports(path, package):
            head = wanted.partition(".")[0]
            theirs = head in sys.stdlib_module_names or head == _PACKAGE.name if alone else head != top
            if wanted in found or theirs or wanted == _PACKAGE.name or _is_engine(wanted):
                continue
            place = root.joinpath(*wanted.split("."))
            other = next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)
            if other is not None and not (alone and _is_installed(root)):
                found[wanted] = other
                waiting.append((wanted, other))
    return found


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names of all that may be a module in a file's import statements, wherever they stand."""
    for module, level, name in _statements(path, *_stamp(path)):
        base = ".".join(package.split(".")[: package.count(".") + 2 - level]) if level else ""
        full = ".".join(filter(None, (base, module)))
        yield from filter(None, (full, f"{full}.{name}" if full and name else name))


@functools.cache
def _statements(path: Path, *stamp: int) -> tuple[tuple[str, int, str], ...]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", node.level, alias.name) for alias in node.names]
    return tuple(found)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _digest(path: Path) -> str:
    return _text_digest(path, *_stamp(path))


@functools.cache
def _text_digest(path: Path, *stamp: int) -> str:
    """Line ends do not count: a checkout on Windows is the same code."""
    return hashlib.blake2b(path.read_bytes().replace(b"\r\n", b"\n"), digest_size=16).hexdigest()


# ------------------------------------------------------------------ our own


def _engine() -> Entry:
    """All of ours that is between a strategy and its record: engine, backends, answer matching."""
    entry = {"what": "structdecode"}
    if _is_installed(_PACKAGE):
        return {**entry, "version": _released("structdecode") or "unknown"}
    return {**entry, "source": digest_of([[str(p.relative_to(_PACKAGE)), _digest(p)] for p in _engine_files()])}


def _engine_files() -> list[Path]:
    found = {path for pattern in _ENGINE for path in _PACKAGE.glob(pattern)}
    return sorted(path for path in found if not (path.parent == _PACKAGE and path.name in _FACES))


@functools.cache
def _engine_modules() -> frozenset[str]:
    paths = (path.relative_to(_PACKAGE.parent).with_suffix("") for path in _engine_files())
    return frozenset(".".join(path.parts).removesuffix(".__init__") for path in paths)


def _is_engine(module: str) -> bool:
    return module in _engine_modules()
