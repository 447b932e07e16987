"""The pocket world as a data set: ``pocket:test``, or ``pocket:test:7`` with another seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import get_args

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.matching.types import Question
from structdecode.pocket import world

DEFAULT_LIMIT = 500


def questions(name: str, limit: int | None) -> Iterator[Question]:
    """The first ``limit`` questions of a split; the same name gives the same ones, under the ids of ``pocket samples``.

    Raises:
        ConfigError: the split or the seed is not known.
    """
    split, _, seed = name.partition(":")
    if split not in get_args(world.Split):
        raise UnknownNameError("split", split, get_args(world.Split))
    if not (seed or "0").isdecimal():
        raise ConfigError(f"pocket:{name}: the seed has to be a number from 0 on, not {seed!r}")
    number = int(seed or 0)
    scenes = world.scenes(split, number)  # type: ignore[arg-type]
    for index, scene in enumerate(islice(scenes, limit or DEFAULT_LIMIT)):
        yield Question(
            id=f"pocket-{split}-{number}-{index}",
            text=scene.question.text,
            answers=(scene.answer,),
            images=(scene.render(),),
            kind="number",
            category=scene.question.kind,
            stages=scene.stages,
            source=f"pocket:{name}:{index}",
        )
