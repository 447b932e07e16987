"""What TRL hands a reward function, read back into the project's own nouns.

Bad data is data: a row whose prompt or picture cannot be used is a `Rollout` with a ``problem``, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from structdecode.core import tags
from structdecode.core.errors import StructdecodeError
from structdecode.core.types import Candidate, Message, Path, Prompt, Schema

_ROLES = ("user", "assistant", "system")
"""Of the turns that a verifier is shown; a tool's are left out."""

Columns = Mapping[str, Any]
"""A batch's columns: each a list with one value a completion."""


@dataclass(frozen=True)
class Rollout:
    """One completion and what it answers.

    Attributes:
        row: its place in the batch.
        prompt: the question as the user asked it, without the schema's instruction; None where there is a problem.
        schema: the schema for this prompt (without the stages that need a picture, where there is none).
        candidate: the completion's stages; malformed ones are spans with ``finish_reason="invalid"``.
        problem: why the prompt cannot be used; empty where it can.
    """

    row: int
    prompt: Prompt | None
    schema: Schema
    candidate: Candidate
    problem: str = ""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for completions of one question: a verifier sees these together."""
        if self.prompt is None:
            return (self.row,)
        return (self.prompt.question, *self.prompt.history, *(picture.digest for picture in self.prompt.images))

    @property
    def well_formed(self) -> bool:
        """Whether every stage is there, in order, closed and not empty, and nothing stands outside of them."""
        return all(span.finish_reason == "stop" and span.text for span in self.candidate.spans)


def read_rollouts(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Columns, schema: Schema
) -> list[Rollout]:
    """A batch as TRL gives it to a reward function.

    Args:
        prompts, completions: texts, or message lists for conversational data; an assistant turn that a prompt ends
            with is the beginning of the answer.
        columns: pictures are looked for in the messages, then in ``images`` (a list each), then in ``image``.
    """
    rows = zip(prompts, completions, strict=True)
    return [_rollout(row, prompt, completion, columns, schema) for row, (prompt, completion) in enumerate(rows)]


def _rollout(row: int, prompt: Any, completion: Any, columns: Columns, schema: Schema) -> Rollout:
    begun, problem, found = "", "", None
    try:
        found, begun = _prompt(prompt, _pictures(columns, row), schema)
        schema = schema.for_prompt(found)
    except StructdecodeError as error:
        problem = str(error)
    spans = tags.parse(schema, begun + _text(completion))
    path: Path = (row, *(0 for _ in spans[1:]))
    return Rollout(row, found, schema, Candidate(spans, path), problem)


def _prompt(prompt: Any, beside: Sequence[Any], schema: Schema) -> tuple[Prompt, str]:
    """The prompt, and what of the answer it has begun."""
    turns: list[Mapping[str, Any]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    users = [at for at, turn in enumerate(turns) if turn.get("role") == "user"]
    last = users[-1] if users else len(turns) - 1
    within = [image for turn in turns for image in _images(turn)]
    history = [Message(turn["role"], _text([turn])) for turn in turns[:last] if turn.get("role") in _ROLES]
    question = _without_instruction(_text([turns[last]]) if turns else "", schema)
    return Prompt(question, within or [_source(image) for image in beside], history), _text(turns[last + 1 :])


def _without_instruction(text: str, schema: Schema) -> str:
    before, after = schema.instruction.split("{question}", 1)
    if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
        return text[len(before) : len(text) - len(after)]
    return text


def _text(messages: Any) -> str:
    """The text of a completion, or of turns: pictures and tool calls left out."""
    if isinstance(messages, str):
        return messages
    return "".join(_content(message.get("content")) for message in messages)


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(str(part.get("text") or "") for part in content if part.get("type", "text") == "text")


def _images(turn: Mapping[str, Any]) -> list[Any]:
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return []
    return [_source(part["image"]) for part in content if part.get("type") == "image" and part.get("image") is not None]


def _pictures(columns: Columns, row: int) -> Sequence[Any]:
    if columns.get("images") is not None:
        return columns["images"][row] or ()
    image = columns["image"][row] if columns.get("image") is not None else None
    return () if image is None else (image,)


def _source(image: Any) -> Any:
    """`datasets` gives a picture that it has not decoded as a mapping."""
    if isinstance(image, Mapping):
        return image.get("bytes") or image.get("path") or ""
    return image
