"""Where a function or class comes from: an installed distribution and its version, or files and their digest."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from structdecode.core.places import module_name
from structdecode.core.plain import digest_of, plain, unwrapped
from structdecode.core.registry import place_of

Entry = dict[str, str]
"""``what``: "module:qualname"; ``version``: its distribution; or digests: ``source``, and ``state`` of what it closes over."""

_PACKAGE = Path(__file__).parents[1]
_ENGINE = (
    "core/**/*.py", "backends/**/*.py", "matching/**/*.py", "pools/*.py", "selection/*.py",
    *(f"evaluation/{name}.py" for name in ("isolation", "judging", "plain", "recording", "runner")),
)  # fmt: skip
_FACES = {
    "view",
    *(f"{name}.py" for name in ("__init__", "assembly", "paths", "presets", "templating", "torchvision_import")),
}
"""Modules of our own that decide no result: what they decide is in a cell's settings."""

_GENERATED = {
    f"__{n}__" for n in ["init", "repr", "eq", "lt", "le", "gt", "ge", "hash", "setattr", "delattr", "replace"]
}
"""What a dataclass gets without a line of source."""


def entry_of(item: Any) -> Entry:
    entry = {"what": place_of(item)}
    file = file_of(item)
    if file is None:
        own = _own_source(item)
        return {**entry, "source": digest_of(own)} if own else entry
    released = _released(item.__module__) if _is_installed(file) else None
    return {**entry, "version": released} if released else {**entry, "source": _source(item.__module__, file)}


def file_of(item: Any) -> Path | None:
    """The file that defines a function or class; None where there is none."""
    if isinstance(item, type):
        methods = [unwrapped(getattr(m, "__func__", m)) for n, m in vars(item).items() if n not in _GENERATED]
        written = [method for method in methods if method is not None and method.__module__ == item.__module__]
        if written:
            return next(filter(None, map(file_of, written)), None)
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


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)


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
    return digest_of(sorted((name, _digest(path)) for name, path in reached(module_name(module), file).items()))


def reached(module: str, file: Path) -> dict[str, Path]:
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
            if wanted in found or theirs or wanted == _PACKAGE.name or is_engine(wanted):
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


def engine() -> Entry:
    """All of ours that is between a strategy and its record: engine, backends, answer matching."""
    entry = {"what": "structdecode"}
    if _is_installed(_PACKAGE):
        return {**entry, "version": _released("structdecode") or "unknown"}
    return {**entry, "source": digest_of([[str(p.relative_to(_PACKAGE)), _digest(p)] for p in _engine_files()])}


def _engine_files() -> list[Path]:
    found = {path for pattern in _ENGINE for path in _PACKAGE.glob(pattern)}
    places = ((path, path.relative_to(_PACKAGE).parts) for path in found)
    return sorted(path for path, (room, name, *_) in places if not (room == "core" and name in _FACES))


@functools.cache
def _engine_modules() -> frozenset[str]:
    paths = (path.relative_to(_PACKAGE.parent).with_suffix("") for path in _engine_files())
    return frozenset(".".join(path.parts).removesuffix(".__init__") for path in paths)


def is_engine(module: str) -> bool:
    return module in _engine_modules()
