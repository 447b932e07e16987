"""What the directory of a trained verifier says about itself. Light: it is read before torch is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.reading import read_text
from structdecode.core.shapes import misfit
from structdecode.core.types import Prompt, Schema, Stage


@dataclass(frozen=True)
class TrainedConfig:
    """The part of a trained verifier that is not weights.

    Attributes:
        stages: names with their tags, in order. A value is read where each of them ends.
        instruction: of the schema, around the question.
        base_model: what it was trained from. trained: how. held_out: figures on questions that it was not trained on.
    """

    schema: str
    instruction: str
    stages: tuple[tuple[str, str, str], ...]
    base_model: str = ""
    trained: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str]
    file: ClassVar[str]
    format: ClassVar[str]

    @classmethod
    def of(cls, schema: Schema, **more: Any) -> Self:
        stages = tuple((stage.name, stage.begin, stage.end) for stage in schema.stages)
        return cls(schema.name, schema.instruction, stages, **more)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Reads the file of a directory that `structdecode train-verifier` made.

        Raises:
            ConfigError: there is no such directory, or it holds no verifier of this kind.
            ModelError: of another version, or damaged.
        """
        path = Path(directory) / cls.file
        if not path.is_file():
            what = "no such directory" if not Path(directory).is_dir() else f"no {cls.file} in it"
            raise ConfigError(f"{cls.kind} {str(directory)!r}: {what}: make one with `structdecode train-verifier`")
        try:
            found = json.loads(read_text(path))  # earlier versions wrote NaN for figures that are not known
            if isinstance(found, dict) and (version := found.pop("format")) != cls.format:
                raise ModelError(f"{path}: format {version!r}, not {cls.format!r}: train it again with this version")
            problem = misfit(found, cls)
            if problem is not None or not _are_stages(found["stages"]):
                raise ModelError(f"{path}: damaged: {problem or 'stages are different names, each with two tags'}")
            return cls(**{**found, "stages": tuple((name, begin, end) for name, begin, end in found["stages"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path}: not a {cls.kind}'s description ({type(error).__name__}: {error})") from None

    def text(self) -> str:
        described = {"format": self.format, **asdict(self), "held_out": _known(self.held_out)}
        return json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.stages)

    def asked(self, prompt: Prompt) -> str:
        """The question with the instruction around it."""
        return Schema(self.schema, (Stage("ANSWER"),), self.instruction).ask(prompt).question

    def tags(self, stage: str) -> tuple[str, str]:
        """A stage's begin and end tag."""
        _, begin, end = self.stages[self.names.index(stage)]
        return begin, end


def _are_stages(found: Any) -> bool:
    return bool(found) and all(len(stage) == 3 for stage in found) and len({stage[0] for stage in found}) == len(found)


def _known(value: Any) -> Any:
    """Figures as JSON has them: null for those that there are too few rows for."""
    if isinstance(value, Mapping):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
