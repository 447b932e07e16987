"""Recipes as files: those of the package by name, YAML files of one's own, and flags that change some of their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Generic, TypeVar

from structdecode.core.declared import read_declared
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.reading import parse_yaml, read_document
from structdecode.core.settings import assignments

R = TypeVar("R")


@dataclass(frozen=True)
class RecipeFiles(Generic[R]):
    """Recipes of one kind.

    Attributes:
        kind: the dataclass whose fields are a recipe's keys.
        folder: where the package has its own, below ``structdecode.training``.
    """

    kind: type[R]
    folder: str

    def built_in(self) -> dict[str, R]:
        """The package's, by name."""
        return {name: self.load(name) for name in sorted(self._packaged())}

    def load(self, name: str, overrides: Mapping[str, Any] | None = None) -> R:
        """One of the package's by its name, or one from a YAML file; then the overrides.

        Raises:
            ConfigError: no such recipe, or a key or value that makes no sense.
        """
        if name.endswith((".yaml", ".yml")):
            content = read_document(name, "train")
        else:
            known = self._packaged()
            if name not in known:
                raise UnknownNameError("recipe", name, known)
            content = _parsed(known[name].read_text(encoding="utf-8"), name)
        return self._changed(self._read(content, name), overrides or {})

    def _changed(self, recipe: R, overrides: Mapping[str, Any]) -> R:
        """With other values. ``curriculum.answers`` changes one entry of a mapping."""
        plain = plain_values(recipe)
        for key, value in overrides.items():
            outer, dot, inner = key.partition(".")
            if dot and isinstance(plain.get(outer), Mapping):
                plain[outer] = {**plain[outer], inner: value}
            else:
                plain[key] = value
        return self._read(plain, "--set")

    def _read(self, content: Any, where: str) -> R:
        return read_declared(self.kind, content, where, "recipe")

    def _packaged(self) -> dict[str, Any]:
        """The package's files by name of recipe."""
        folder = files("structdecode.training").joinpath(self.folder)
        return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}


def plain_values(recipe: Any) -> dict[str, Any]:
    """A recipe's, as in YAML."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


def show(recipes: Mapping[str, Any]) -> None:
    """Prints each recipe's name and what it says about itself."""
    for name, recipe in recipes.items():
        print(f"{name}: {' '.join(recipe.about.split())}")


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts; values are read as YAML reads them."""
    return {key: _parsed(value, f"--set {key}") if value else None for key, value in assignments(settings).items()}


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_yaml(text, "train")
    except ValueError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
