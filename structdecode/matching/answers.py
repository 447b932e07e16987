"""The final answer in a text, in a form in which equal answers are equal texts."""

from __future__ import annotations

import math
import re

_LEAD = re.compile(r"(?:final answer|answer|conclusion)\s*(?:is|:|=)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def normalise(text: str) -> str:
    """Case, white space, articles and closing punctuation removed; 1,000 and 1000.0 become 1000; (B) becomes b."""
    text = " ".join(text.lower().split()).strip(" .,;:!?\"'`*$")
    text = re.sub(r"^(?:the|a|an) ", "", text)
    if re.fullmatch(_NUMBER, text):
        return _number(text)
    letter = re.fullmatch(r"\(?([a-h])\)?[.:)]?", text)
    return letter.group(1) if letter else text


def final_answer(text: str) -> str:
    """The answer itself, normalised: what follows "answer is", else a chain of thought's last number, else all of it."""
    leads = list(_LEAD.finditer(text))
    if leads:
        return normalise(text[leads[-1].end() :].split("\n")[0])
    short = normalise(text)
    if len(text.split()) > 4:
        numbers = _NUMBER.findall(text)
        return _number(numbers[-1]) if numbers else short
    return short


def _number(text: str) -> str:
    text = text.replace(",", "")
    if "." not in text and len(text) < 4000:  # a float would make neighbours of 2**53 and more one vote
        return str(int(text))
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value) if math.isfinite(value) else text
