"""``structdecode new``."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from structdecode.core.errors import ConfigError

Kind = Literal["verifier", "strategy"]
_GROUPS: Mapping[Kind, Literal["verifiers", "strategies"]] = {"verifier": "verifiers", "strategy": "strategies"}
Name = Annotated[str, typer.Argument(help="What it is called by: lower-case words with hyphens between them.")]
Out = Annotated[Path | None, typer.Option(help="The folder to write; default: structdecode-NAME here.")]


def verifier(name: Name, out: Out = None) -> None:
    """Write a small package with a verifier and its test, to be made one's own.

    Example: `structdecode new verifier mentions-colours`, then `pip install -e structdecode-mentions-colours`
    """
    _write("verifier", name, out)


def strategy(name: Name, out: Out = None) -> None:
    """Write a small package with a strategy and its test, to be made one's own.

    Example: `structdecode new strategy my-search`, then `pip install -e structdecode-my-search`
    """
    _write("strategy", name, out)


def _write(kind: Kind, name: str, out: Path | None) -> None:
    from structdecode.core import registry

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(f"a {kind} is called by lower-case words with hyphens between them, not {name!r}")
    if name in registry.names(_GROUPS[kind]):
        raise ConfigError(f"there is a {kind} {name!r} already: choose another name")
    folder = Path(f"structdecode-{name}") if out is None else out
    if folder.exists():
        raise ConfigError(f"{folder}: is there already: choose another name or --out")
    for path, text in package_of(kind, name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    print(f"Wrote {folder}: pip install -e {folder}, then structdecode list {_GROUPS[kind]}; its test: pytest {folder}")


def package_of(kind: Kind, name: str) -> dict[str, str]:
    """The files of a package with a plug-in, by path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    words = name.split("-")
    module = "structdecode_" + "_".join(words)
    facts = {
        "kind": kind, "name": name, "group": _GROUPS[kind], "module": module,
        "class_name": "".join(word.capitalize() for word in words),
    }  # fmt: skip
    templates = Environment(  # Python and TOML: there is nothing to escape, a name has no character that would need it
        loader=PackageLoader("structdecode.cli"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    sources = {
        "pyproject.toml": "pyproject.toml", "README.md": "README.md", f"{module}.py": f"{kind}.py",
        f"tests/test_{'_'.join(words)}.py": f"test_{kind}.py",
    }  # fmt: skip
    return {path: templates.get_template(f"{source}.jinja").render(facts) for path, source in sources.items()}
