"""What of an answer its reader sees: nothing that belongs to a hidden stage, wherever the model wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structdecode.core.types import Schema, Stage


def visible_text(schema: Schema, texts: Mapping[str, str]) -> str:
    """An answer as its reader sees it, from the texts of its stages by name."""
    found = [
        shown(schema, stage, texts[stage.name]) for stage in schema.stages if stage.visible and stage.name in texts
    ]
    return "\n".join(filter(None, found))


def is_whole(schema: Schema, stage: Stage, text: str) -> bool:
    """Whether all of a stage's text is shown, where it is visible: nothing in it belongs to another stage."""
    return not stage.visible or shown(schema, stage, text) == text


def shown(schema: Schema, stage: Stage, text: str) -> str:
    """What may be shown of a visible stage's text.

    A model may write a hidden stage where it does not belong. From its begin tag to its end tag, or to the end of the
    text where it is not closed, nothing is shown; before an end tag that nothing begins neither, nor before a begin tag
    of the stage's own.
    """
    hidden = [other for other in schema.stages if not other.visible and other.begin and other.end]
    tags = {tag: other for other in hidden for tag in (other.begin, other.end)}
    own = [tag for other in schema.stages if other.visible for tag in (other.begin, other.end) if tag]
    if not any(tag in text for tag in (*tags, *own)):
        return text
    kept: list[str] = []
    open_ = dict.fromkeys((other.name for other in hidden), 0)
    for piece in re.split(
        f"({'|'.join(map(re.escape, sorted(tags, key=len, reverse=True)))})" if tags else r"(?!)", text
    ):
        if piece not in tags:
            kept += [] if any(open_.values()) else [piece]
        elif piece == tags[piece].begin:
            open_[tags[piece].name] += 1
        elif open_[tags[piece].name]:
            open_[tags[piece].name] -= 1
        else:
            kept = []
    rest = " ".join(filter(None, (piece.strip() for piece in kept)))
    if stage.begin and stage.begin in rest:
        rest = rest[rest.index(stage.begin) + len(stage.begin) :]
    for tag in own:
        rest = rest.replace(tag, " ")
    return rest.strip()
