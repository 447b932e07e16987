"""Lists in any order: separated by commas, semicolons, lines or "and"; brackets, bullets and duplicates do not count."""

from __future__ import annotations

import re

from structdecode.matching.quantities import canonical, whole_quantity
from structdecode.matching.text import normalise
from structdecode.matching.texts import NEGATION, clean, segment, unify
from structdecode.matching.types import Match, Question

_BULLET = re.compile(r"(?:\n[ \t]*|^[ \t]*)(?:[-*•]|\d{1,2}[.)])[ \t]+")
_INTRODUCTION = re.compile(r"^[^:\n=]{0,120}?(?::|=|\b(?:are|is|were|includes?)\b:?)\s*", re.IGNORECASE)
_BRACKETS = str.maketrans("", "", "[]{}()$\\")
_AND = re.compile(r",?\s+(?:and|&)\s+|\s&\s", re.IGNORECASE)
_WIDE = re.compile(r"[;\n|]|,\s+")
_NARROW = re.compile(r"[;\n|,]")


def match(text: str, question: Question) -> Match:
    """The same elements as a reference, no more and no less."""
    letters = _letters(question)
    found = readings(text, letters)
    wanted = {r for answer in question.answers for r in elements(unify(answer), letters) if r}
    hit = next((r for r in found if r in wanted), None)
    if hit is not None:
        return Match(True, "set:equal", ", ".join(sorted(hit)))
    if not found:
        return Match(False, "none", "")
    best = found[-1]
    contained = any(best < reference for reference in wanted)
    more = any(best > reference for reference in wanted)
    rule = "set:missing" if contained else "set:extra" if more else "set:different"
    return Match(False, rule, ", ".join(sorted(best)))


def readings(text: str, letters: frozenset[str] = frozenset()) -> list[frozenset[str]]:
    """The sets that a whole answer may be read as."""
    part = segment(clean(_BULLET.sub(", ", text).lstrip(" ,")))
    return [r for stated in _statements(part.text) for r in elements(stated, letters) if r]


def elements(text: str, letters: frozenset[str] = frozenset()) -> list[frozenset[str]]:
    """The ways to read a text as a set: with "and" inside elements ("salt and pepper"), and as a separator."""
    text = text.strip().rstrip(".").translate(_BRACKETS).strip()
    if letters and set(text) <= letters and text.isupper():
        return [frozenset(text.lower())]
    separator = _WIDE if _WIDE.search(text) else _NARROW
    parts = [part for part in separator.split(text) if part.strip()]
    parts = [re.sub(r"^\s*(?:and|&)\s+", "", part, flags=re.IGNORECASE) for part in parts]
    apart = [piece for part in parts for piece in _AND.split(part)]
    return [frozenset(filter(None, (element(p, letters) for p in pieces))) for pieces in (parts, apart)]


def element(text: str, letters: frozenset[str] = frozenset()) -> str:
    """One element: a number in canonical form, an option's letter, or normalised text."""
    text = text.strip().strip("\"'`")
    letter = re.match(r"(?:option )?([A-Za-z])(?:$|[.):]\s*)", text)
    if letter and letter[1].upper() in letters:
        return letter[1].lower()
    quantity = whole_quantity(text)
    if quantity is None or quantity.noun:
        return normalise(text)
    return canonical(quantity.value) + (f" {quantity.unit.name}" if quantity.unit else "")


def _letters(question: Question) -> frozenset[str]:
    return frozenset(letter.strip().upper() for letter in question.options)


def _statements(text: str) -> list[str]:
    """The text, and what it introduces: "The colours are red and blue". No introduction may deny ("these are not")."""
    statements = [text]
    introduced = _INTRODUCTION.match(text)
    if (
        introduced
        and not NEGATION.search(introduced.group())
        and not re.search(r"\b(?:missing|without)\b", introduced.group())
    ):
        statements.append(text[introduced.end() :])
    return statements
