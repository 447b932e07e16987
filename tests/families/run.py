"""All checks of one family, and what came of each."""

from __future__ import annotations

import asyncio
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.backend import Engine
from structdecode.core.errors import ModelError, PromptError
from tests.families.catalogue import FAMILIES, Family
from tests.families.checks import CHECKS, Subject, Wrong
from tests.families.oracle import Oracle

ENGINES: tuple[Engine, ...] = ("slots", "plain")


@dataclass
class Outcome:
    """What one family did under one engine.

    Attributes:
        engine: the one it ran on, which may be another than was asked for. layers: kinds of its text model's.
        cells: by check: ``ok``, ``refused``, or what went wrong. refusal: the line with which the backend was refused.
    """

    family: str
    asked: str
    engine: str = ""
    model: str = ""
    layers: str = ""
    refusal: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        return [
            f"{self.family} {self.asked} {name}: {cell}"
            for name, cell in self.cells.items()
            if cell not in ("ok", "refused")
        ]


def quiet() -> None:
    """In each worker: one thread, and nothing said but what is wrong."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)


def under_both_engines(name: str) -> list[Outcome]:
    """All checks of a family; once where one of the engines is not there for it."""
    found: list[Outcome] = []
    with FAMILIES[name].saved() as directory:
        for engine in ENGINES:
            found.append(examined(FAMILIES[name], Path(directory), engine))
            if found[-1].engine != engine:
                break
    return found


def examined(family: Family, directory: Path, asked: Engine, checks: Sequence[str] = tuple(CHECKS)) -> Outcome:
    """Loads a family's checkpoint as users do and runs checks on it."""
    began = time.perf_counter()
    outcome = Outcome(family.name, asked)
    try:
        backend = _loaded(family, directory, asked, outcome)
        if backend is not None:
            outcome.engine, outcome.model = backend.engine, type(backend.model).__name__
            kinds = getattr(backend.model.config.get_text_config(), "layer_types", None) or ["full_attention"]
            outcome.layers = ", ".join(sorted({kind.replace("_attention", "") for kind in kinds}))
            subject = Subject(backend, Oracle(directory))
            outcome.cells |= {name: _outcome(family, name, subject) for name in checks}
    except Exception as error:
        outcome.cells["load"] = f"crash: {type(error).__name__}: {_first(error)}"
    outcome.seconds = time.perf_counter() - began
    return outcome


def _loaded(family: Family, directory: Path, asked: Engine, outcome: Outcome) -> TransformersBackend | None:
    """The backend; one that is refused although the family is not to be is made all the same, to see what is wrong."""
    outcome.cells["load"] = "not refused" if family.refused else "ok"
    try:
        return TransformersBackend.load(directory, engine=asked, device="cpu", dtype="float32")
    except ModelError as error:
        outcome.refusal = str(error).replace(str(directory), family.name)
        if family.refused and re.search(family.refused, outcome.refusal) and "\n" not in outcome.refusal:
            outcome.cells["load"] = "refused"
            return None
        outcome.cells["load"] = f"refused: {outcome.refusal}"
    return TransformersBackend.load(directory, engine=asked, device="cpu", dtype="float32", check=False)


def _outcome(family: Family, name: str, subject: Subject) -> str:
    try:
        asyncio.run(CHECKS[name](subject))
    except Wrong as error:
        return f"WRONG: {error}"
    except PromptError as error:
        may = (name == "no picture" and not family.pictureless) or (name == "two pictures" and not family.many)
        return "refused" if may else f"refused: {_first(error)}"
    except Exception as error:
        return f"crash: {type(error).__name__}: {_first(error)}"
    return "ok"


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
