"""Options, answers and the other fields that a question may have, from the forms in which data sets write them."""

from __future__ import annotations

import ast
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from structdecode.core.problems import BadRow, kind_of, shown
from structdecode.data.rows import plain_text, without_marks
from structdecode.matching.types import Kind

LETTERS = string.ascii_uppercase


def listed(text: str) -> list[Any] | None:
    """A list written as JSON or as Python writes it; None where the text is none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) else None
    return None


def options_of(value: Any) -> dict[str, str]:
    """Letter -> text, of a list, of an object with letters as keys, or of either as a text."""
    if value is None:
        return {}
    if isinstance(value, str):
        if not value.strip():
            return {}
        value = _object(value) or listed(value)
        if value is None:
            raise BadRow("bad-options", 'options are no list: write ["red", "blue"]')
    if isinstance(value, Mapping):
        return {_letter(key): _option(text) for key, text in value.items() if text is not None}
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise BadRow("wrong-type", f"options are {kind_of(value)}, not a list")
    if len(value) > len(LETTERS):
        raise BadRow("bad-options", f"{len(value)} options, more than there are letters: split the question")
    return {letter: _option(text) for letter, text in zip(LETTERS, value, strict=False)}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _letter(key: Any) -> str:
    if not isinstance(key, str) or key.strip().upper() not in LETTERS or not key.strip():
        raise BadRow("bad-options", f"option {shown(key)}: its key is not one of the letters A to Z")
    return key.strip().upper()


def _option(value: Any) -> str:
    text = without_marks(plain_text("an option", value))
    if not text:
        raise BadRow("bad-options", "an option is a picture alone, which the text cannot show: give it words")
    return text


def with_options(question: str, options: Mapping[str, str]) -> str:
    """The question with its options below it, unless it lists them itself."""
    if not options or lists_options(question, options):
        return question
    return "\n".join([question, "Options:", *(f"{letter}. {text}" for letter, text in options.items())])


def lists_options(question: str, options: Mapping[str, str]) -> bool:
    """Whether each option stands in the question behind its letter: ``A. red``, ``(A) red``, ``A: red``."""
    return all(re.search(rf"(?<!\w){k}[.):]+\s*{re.escape(v)}", question) for k, v in options.items())


def chosen(answer: Any, options: Mapping[str, str]) -> str:
    """The letter of the right option: by letter, by text, or (a number, no text) by place, from 0.

    Raises:
        BadRow: it is none of the options.
    """
    text = without_marks(plain_text("answer", answer))
    if text in options:
        return text
    folded = " ".join(text.casefold().split())
    same = [key for key, option in options.items() if " ".join(option.casefold().split()) == folded]
    if same:
        return same[0]
    letter = text.strip("().: ").upper()
    if letter in options:
        return letter
    if isinstance(answer, int) and 0 <= answer < len(options):
        return list(options)[answer]
    raise BadRow("answer-not-in-options", f"answer {shown(text)} is none of {', '.join(options)}: correct it")


def answers_of(value: Any) -> tuple[str, ...]:
    """One answer or a list of accepted ones; VQA v2's ``{"answer": ...}`` too. Each answer once.

    Raises:
        BadRow: there is none, or one is no text or number.
    """
    if isinstance(value, str):
        value = listed(value) or value
    if not isinstance(value, list | tuple):
        value = [value]
    texts: dict[str, None] = {}
    for answer in value:
        if isinstance(answer, Mapping):
            answer = answer.get("answer")
        if isinstance(answer, bool):
            answer = "yes" if answer else "no"
        if answer is None:
            raise BadRow("missing-field", "no answer: add one, or leave the row out")
        texts[plain_text("answer", answer)] = None
    if not texts:
        raise BadRow("missing-field", "the list of answers is empty: add one")
    return tuple(texts)


def kind_in(value: Any) -> Kind:
    known: tuple[Kind, ...] = get_args(Kind)
    for kind in known:
        if value == kind:
            return kind
    raise BadRow("unknown-kind", f"kind {shown(str(value))}: give one of {', '.join(known)}")


def tolerance_in(value: Any) -> float:
    text = plain_text("tolerance", value)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise BadRow("bad-tolerance", f"tolerance {shown(text)}: give a number from 0 on, such as 0.05")
    return number
