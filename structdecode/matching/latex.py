"""Formulas: equal as written, as numbers, or by math-verify."""

from __future__ import annotations

import math
import re

from structdecode.matching import numbers, symbolic
from structdecode.matching.exact import evaluate
from structdecode.matching.quantities import altered, amount
from structdecode.matching.texts import boxes, negated, outer, segment, unify
from structdecode.matching.types import Match, Question
from structdecode.matching.units import SPELLING

MAX_CHARACTERS = 400
"""Longer formulas are compared as written only."""

_DOLLARS = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(([^\n]+?)\\\)|\\\[([^\n]+?)\\\]")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])|\\[,;:!]|\\quad|~|\s+")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\(?:text|mathrm)\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_FUNCTIONS = {"sin", "cos", "tan", "log", "exp", "lim", "sqrt", "max", "min", "gcd"}
_UNIT = re.compile(rf"\s*({SPELLING})(?!\s+\w+\s+\w)")
"""A unit right behind a formula in dollars is part of the answer; "in the box" is none."""
_NOUN = re.compile(r"\s*([a-zA-Z]+)\s*[.,;]?\s*")
"""The one word behind it that ends the text is a unit, too, known or not: J, joules, apples."""
_UNITS = re.compile(
    r"(?<=[\d\s})$i])\s*(?:\\(?:text|mathrm)\s*\{\s*)?(?:(?:square|cubic|sq\.?|cu\.?)\s*)?units?\s*\}?(?:\s*\^\s*\{?[23]\}?)?\s*$"
)
_ASSIGNED = re.compile(r"\s*([a-zA-Z](?:_\w)?)\s*=")
_PROSE = re.compile(r"[a-zA-Z]{2,}\s+[a-zA-Z]{2,}")


def match(text: str, question: Question) -> Match:
    """The last box, what "the answer is" leads to, the last formula in dollars, or a text that is all formula."""
    answer = formula(text)
    written = as_written(answer)
    if not written:
        return Match(False, "none", "")
    if written in {as_written(_bare(reference)) for reference in question.answers}:
        return Match(True, "latex:exact", _extracted(answer, written))
    rule, canonical = "latex:different", _extracted(answer, written)
    for reference in question.answers:
        correct, rule, canonical = _equivalent(answer, _bare(reference), question, canonical)
        if correct:
            return Match(True, rule, canonical)
    return Match(False, rule, canonical)


def formula(text: str) -> str:
    """The part of the text that is the answer, as LaTeX without its delimiters."""
    text = unify(outer(text)).strip()
    part = segment(text)
    stated = part.statement
    formulas = list(_DOLLARS.finditer(stated))
    if formulas and (negated(stated, *formulas[-1].span()) or altered(stated, formulas[-1].start())):
        return ""
    dollars = [next(filter(None, found.groups())) for found in formulas]
    if dollars and (unit := _UNIT.match(stated, formulas[-1].end()) or _NOUN.fullmatch(stated, formulas[-1].end())):
        dollars[-1] += rf" \text{{ {unit[1]} }}"
    if part.led and dollars:
        return _tidy(dollars[0] if len(dollars) == 1 else stated)
    if dollars and as_written(stated) != as_written(dollars[-1]):
        return _tidy(dollars[-1])
    return _tidy(stated)


def _bare(reference: str) -> str:
    """A reference without dollars or box."""
    reference = unify(reference).strip()
    body = next((body for _, _, body in boxes(reference)), reference)
    return _tidy(body)


def _tidy(text: str) -> str:
    text = _UNITS.sub("", text.replace("**", "").strip().rstrip(" \n.,;:")).rstrip()
    whole = _DOLLARS.fullmatch(text)
    return (next(filter(None, whole.groups())) if whole else text).strip()


def as_written(text: str) -> str:
    """Without spacing; the variants of a fraction are one. Letters keep their case: x is not X."""
    text = re.sub(r"\\[dt]frac(?![a-z])", r"\\frac", text.replace("$", ""))
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    return _SPACING.sub("", text)


def assigned(text: str) -> str:
    """The ``x`` of "x = 5"."""
    found = _ASSIGNED.match(text)
    return found[1] if found else ""


def _extracted(answer: str, written: str) -> str:
    quantity = amount(answer)
    if quantity is None or quantity.noun:
        return written
    name = assigned(answer)
    return (f"{name}=" if name else "") + numbers.extracted(quantity, None, Question("", "", ("0",)))


def _equivalent(answer: str, reference: str, question: Question, extracted: str) -> tuple[bool, str, str]:
    if assigned(answer) and assigned(reference) and assigned(answer) != assigned(reference):
        return False, "latex:different", extracted
    given, wanted = amount(answer), amount(reference)
    if given is not None and wanted is not None and not given.noun and not wanted.noun:
        correct, rule = numbers.compare(given, reference, question, answer)
        return correct, rule, extracted
    mine, theirs = evaluate(answer), evaluate(reference)
    if mine is not None and theirs is not None:
        equal = mine.value == theirs.value
        return equal, "latex:equivalent" if equal else "latex:different", extracted
    if mine is not None or theirs is not None or given or wanted or not _comparable(answer, reference):
        return False, "latex:different", extracted
    result = symbolic.compare(reference, answer)
    canonical = _extracted(result.canonical, result.canonical) or extracted
    if result.equal is None:
        return False, "latex:timeout", extracted
    if result.equal:
        return True, "latex:equivalent", canonical
    tolerance = question.tolerance
    if (
        tolerance
        and result.values
        and math.isclose(*result.values, rel_tol=0.0, abs_tol=tolerance * abs(result.values[0]))
    ):
        return True, "latex:tolerance", canonical
    return False, "latex:different", canonical


def _comparable(answer: str, reference: str) -> bool:
    """Whether math-verify may judge: it reads words as products of letters ("cat" = "tac") and X as x."""
    if max(len(answer), len(reference)) > MAX_CHARACTERS:
        return False
    letters, words = [], []
    for text in (answer, reference):
        if _PROSE.search(_COMMAND.sub(" ", text)):
            return False
        bare = _COMMAND.sub(" ", text)
        words.append({word.lower() for word in _WORD.findall(bare)} - _FUNCTIONS)
        letters.append(set(re.findall(r"[a-zA-Z]", bare)))
    if words[0] != words[1] or ("°" in answer) != ("°" in reference) or ("\\circ" in answer) != ("\\circ" in reference):
        return False
    if _ordered(reference) != _ordered(answer):
        return False
    first, second = letters
    return not any(c.swapcase() in second and c not in second for c in first)


def _ordered(text: str) -> bool:
    """Whether it is a tuple or an interval."""
    return re.match(r"\s*[(\[].*,.*[)\]]\s*$", text) is not None
