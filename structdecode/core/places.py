"""Plug-ins that are in no package's entry points: ``file.py:Name`` and ``package.module:Name``."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.reading import cut, one_line, read_bytes

_MARK = "@"
"""In the name of a module that was loaded from a file, between the file's name and a digest of its place and text."""


def is_place(name: str) -> bool:
    """Whether a name says where something is, rather than what it is registered under."""
    return ":" in name or name.endswith(".py")


def short_name(name: str) -> str:
    """What tables show: of ``file.py:Name`` the ``Name``, any other name as it is."""
    return name.rpartition(":")[2]


def module_name(module: str) -> str:
    """A module's name as it is everywhere and always: of a file its own, wherever it lies and whatever is in it.

    >>> module_name("mine@4f9a"), module_name("structdecode.core.places")
    ('mine', 'structdecode.core.places')
    """
    return module.partition(_MARK)[0]


def load_place(place: str, what: str) -> Any:
    """What stands at ``file.py:Name`` or ``package.module:Name``; a file that was changed meanwhile is read again.

    Args:
        what: it should be, for messages.

    Raises:
        ConfigError: there is no such file, module or name, or Python cannot run it; in one line.
    """
    source, colon, name = place.rpartition(":")
    if not colon or not name or not source:
        raise ConfigError(f"{what} {place!r}: say which one: {(source or name)}:NAME")
    problem = f"{what} {place!r} cannot be loaded"
    try:
        module = _of_file(Path(source).absolute()) if source.endswith(".py") else _of_name(source)
    except _Unreadable as error:
        raise ConfigError(f"{problem}: {error}") from None
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise ConfigError(f"{problem}: not Python: {error.msg}{where}") from None
    except (Exception, SystemExit) as error:  # of the code that is imported, whatever it raises
        raise ConfigError(f"{problem}: {cut(one_line(f'{type(error).__name__}: {error}'), 300)}") from error
    return _attribute(module, name, source)


def _attribute(module: types.ModuleType, name: str, source: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UnknownNameError(f"name in {source}", name, _own_names(module))
        found = getattr(found, part)
    return found


def _own_names(module: types.ModuleType) -> list[str]:
    """What a module defines; not what it imports."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


class _Unreadable(Exception):
    """There is nothing that Python could run."""


def _of_name(name: str) -> types.ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise _Unreadable(f"{name} is neither a file that ends in .py nor a module's name")
    _find_modules_in(Path.cwd())
    return importlib.import_module(name)


def _of_file(path: Path) -> types.ModuleType:
    """A file's module. Its name has a digest, so that it is no other module's, and a changed file is another module."""
    try:
        text = read_bytes(path)
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    digest = hashlib.blake2b(os.fsencode(path) + b"\0" + text, digest_size=8).hexdigest()
    name = f"{path.stem.replace('.', '_')}{_MARK}{digest}"
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__file__ = str(path)
        _find_modules_in(path.parent)  # what lies beside it may be imported, as in a script
        sys.modules[name] = module  # dataclasses and type hints look for it there
        try:
            exec(compile(text, str(path), "exec"), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _find_modules_in(folder: Path) -> None:
    """Behind all else, so that nothing there stands in for an installed package."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
