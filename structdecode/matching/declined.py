"""Texts that give no answer: they say that they do not know (abstained) or that they will not tell (refused)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from structdecode.matching.texts import segment, sentences
from structdecode.matching.types import Status

_WINDOW = 400
"""Characters at the start and at the end of a text in which it may decline; doubts on the way do not count."""

_REFUSAL = re.compile(
    r"\bi\s?(?:'m|am)?\s?(?:very |so |really |afraid )?(?:sorry,? )?(?:but )?(?:i )?"
    r"(?:can't|cannot|can not|cant|won't|will not|(?:am |'m )?(?:unable|not able|not allowed|not permitted) to|refuse to|must decline"
    r"|have to decline|decline to|am not comfortable|'m not comfortable)"
    r"(?:\s(?:to|really|directly|possibly))?(?:\s(?:help|assist|provide|answer|comply|discuss|continue|fulfil+|share|process|engage|support"
    r"|identify|do (?:that|this)|give|respond|complete)\w*|[.,!]|$)"
    r"|\bas an ai\b[^.\n]{0,60}?\b(?:can't|cannot|not able|unable|don't|do not)\b"
    r"|\b(?:against|violates?) (?:my|our|the) (?:guidelines|polic(?:y|ies)|programming|principles)\b|\bi must decline\b",
    re.IGNORECASE,
)
_UNKNOWING = (
    r"\bi (?:really |honestly |just )?(?:do not|don't|dont) (?:really |actually )?know\b|\bi have no (?:idea|clue)\b|^(?:no idea|idk|dunno|pass)\b"
    r"|\bi(?:'m| am) (?:really |honestly )?(?:not (?:\w+ )?(?:sure|certain)|unsure|uncertain)\b|^(?:not sure|unsure)\b"
    r"|\bi (?:can't|cannot|can not|could not|couldn't|am unable to|'m unable to|am not able to) "
    r"(?:tell|determine|say|see|find|figure|make out|read|view|access|be (?:sure|certain)|decide|know)\b"
    r"|\bno (?:image|picture|photo)\b[^.\n]{0,20}\b(?:provided|attached|given|visible|available)\b"
)
_UNDETERMINED = (
    r"\b(?:can(?:'t|not| not)|could not|couldn't) (?:be |really be )(?:determined|answered|known|inferred|established|identified|calculated"
    r"|concluded|told)\b|\b(?:can(?:'t|not)) (?:tell|say|determine|know)\b|\b(?:not|isn't) (?:possible|enough (?:info\w*|data|context|details?)) ?(?:to)?"
    r"|\bimpossible to (?:tell|say|determine|know|answer)\b|\b(?:insufficient|not sufficient|lacks? (?:enough|sufficient)) "
    r"(?:info\w*|data|context|details?)\b|\bunanswerable\b|\bno way (?:to|of) (?:tell|know|determin)\w*|\b(?:is|remains|are) (?:unknown|unclear)\b"
    r"|^(?:unknown|unclear|undetermined|indeterminate|not (?:known|given|determinable|specified))[.!]?$"
    r"|\b(?:does|do) not (?:say|specify|provide enough|contain enough)\b"
)
_UNDETERMINED_RE = re.compile(_UNDETERMINED, re.IGNORECASE)
_ABSTENTION = re.compile(f"{_UNKNOWING}|{_UNDETERMINED}", re.IGNORECASE)
_HEDGE = re.compile(r"^(?P<answer>[^\n]{1,200}?)[,.;]?\s+(?:but|though|although)\s+i(?:'m| am) (?:not (?:\w+ )?(?:sure|certain)|unsure)\b", re.IGNORECASE)  # fmt: skip
_BUT = re.compile(r"\s*[,.;]?\s+(?:but|however,?)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Declined:
    """A text declines; ``rest`` is an answer that it gives all the same ("I'm not sure, but B"), or empty."""

    status: Status
    rest: str = ""


def undetermined(text: str) -> bool:
    """Whether it says that nobody could tell ("cannot be determined"), rather than that the speaker cannot."""
    return bool(_UNDETERMINED_RE.search(text.strip())) and len(text.split()) <= 25


def declined(text: str) -> Declined | None:
    """Whether a cleaned text declines to answer. One that states an answer with "the answer is" does not."""
    part = segment(text)
    if part.led:
        start = part.text[:40]
        found = _REFUSAL.search(start) or _ABSTENTION.search(part.text[:120].split(", but")[0])
        return Declined("refused" if _REFUSAL.search(start) else "abstained") if found else None
    windows = (text,) if len(text) <= 2 * _WINDOW else (text[:_WINDOW], text[-_WINDOW:])
    if any(_REFUSAL.search(window) for window in windows):
        return Declined("refused")
    hedge = _HEDGE.match(text[:_WINDOW])
    if hedge is not None:
        return Declined("abstained", hedge["answer"])
    for window in windows:
        said = sentences(window)
        for sentence in {*said[:1], *said[-1:]}:
            found = _ABSTENTION.search(sentence)
            if found is not None:
                return Declined("abstained", _after_but(sentence, found.end()))
    return None


def _after_but(sentence: str, start: int) -> str:
    but = _BUT.search(sentence, start)
    rest = sentence[but.end() :] if but else ""
    return "" if _ABSTENTION.search(rest) else rest
