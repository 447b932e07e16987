"""Numbers: exact unless the question allows a tolerance; units are converted, a number of another unit is wrong."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from structdecode.matching.quantities import (
    Quantity,
    canonical,
    plain_math,
    quantities,
    whole_quantity,
    words_to_digits,
)
from structdecode.matching.texts import clean, negated, segment, unify
from structdecode.matching.types import Match, Question
from structdecode.matching.units import PERCENT, UNITS, Unit, asked_unit

_ALTERNATIVE = re.compile(r"[^\d.;=]{0,20}?(?:\s+(?:or|and)\s+|\s*/\s*|,\s*)(?:maybe\s+|possibly\s+|perhaps\s+)?")
_NOTHING = re.compile(
    r"(?:there (?:are|is|were|was) )?(?:none|no (?P<noun>[\w ]{1,40}?))(?: (?:at all|left|visible|in|on|that)\b.*)?[.!]?",
    re.IGNORECASE,
)


def match(text: str, question: Question) -> Match:
    """The number behind "the answer is", else the last one, against each reference.

    A range, a bound ("more than 5"), a calculation without its result and two alternatives are wrong answers.
    """
    text = clean(text)
    part = segment(text)
    context = _context(question)
    statement = plain_math(part.statement)
    if not any(c.isdigit() for c in statement):
        statement = words_to_digits(statement)
    found = quantities(statement)
    if not found:
        nothing = _NOTHING.fullmatch(statement.strip())
        if nothing is None or not _asked_about(nothing["noun"], question):
            return Match(False, "none", "")
        found = [Quantity(Fraction(0), None, 0, len(statement))]
    answer, problem = _chosen(statement, found, part.led)
    if answer is None or problem:
        return Match(False, f"number:{problem}", "")
    extracted = _extracted(answer, context, question)
    rule = "number:different"
    for reference in question.answers:
        correct, rule = compare(answer, reference, question, statement)
        if correct:
            break
    else:
        correct = False
    if rule == "number:unit-differs" and answer.unit is None:  # another noun is another vote
        extracted = f"{canonical(answer.value)} {_noun_behind(answer, statement)}"
    return Match(correct, rule, extracted)


def compare(answer: Quantity, reference: str, question: Question, statement: str = "") -> tuple[bool, str]:
    """Whether the number answers like this reference, and the rule that says so."""
    wanted = whole_quantity(unify(reference))
    if wanted is None:
        return False, "number:no-reference"
    if wanted.noun and wanted.unit is None and not _same_noun(wanted.noun, answer, statement):
        return False, "number:unit-differs"
    asked = wanted.unit or asked_unit(question.text)
    value, unit = answer.value, answer.unit
    if PERCENT in (asked, unit):
        return _compare_percent(answer, wanted, asked, question)
    if unit is None or asked is None:
        rule = (
            "exact"
            if unit is asked
            else "no-unit"
            if unit is None and wanted.unit
            else "exact"
            if unit is None
            else "unit-ignored"
        )
        return _close(value, wanted.value, question, f"number:{rule}")
    if unit.base != asked.base:
        return False, "number:unit-differs"
    rule = "number:exact" if unit == asked else "number:unit"
    return _close(unit.convert(value, asked), wanted.value, question, rule)


def _compare_percent(answer: Quantity, wanted: Quantity, asked: Unit | None, question: Question) -> tuple[bool, str]:
    """Where the question asks for a percentage bare numbers are percents, elsewhere they are fractions (of 1)."""
    if not {answer.unit, wanted.unit} <= {PERCENT, None} or asked not in (PERCENT, None):
        return False, "number:unit-differs"
    bare = _bare_percent(question)
    value = answer.value * (PERCENT.factor if answer.unit is PERCENT else bare)
    target = wanted.value * (PERCENT.factor if wanted.unit is PERCENT else bare)
    rule = "number:exact" if answer.unit is wanted.unit else "number:percent"
    return _close(value, target, question, rule)


def _bare_percent(question: Question) -> Fraction:
    return PERCENT.factor if asked_unit(question.text) is PERCENT else Fraction(1)


def _close(value: Fraction, target: Fraction, question: Question, rule: str) -> tuple[bool, str]:
    if value == target:
        return True, rule
    tolerance = question.tolerance
    if tolerance is None or not math.isfinite(tolerance) or tolerance <= 0:
        return False, "number:different"
    close = abs(value - target) <= Fraction(tolerance) * abs(target)
    return close, "number:tolerance" if close else "number:different"


def _chosen(text: str, found: list[Quantity], led: bool) -> tuple[Quantity | None, str]:
    """The number that is the answer, and what is wrong with it, if anything."""
    stated = [q for q in found if not negated(text, q.start, q.end) or q.spoilt == "bound"]
    if not stated:
        return None, "negated"
    if led:
        equals = text.rfind("=")
        candidates = [q for q in stated if q.start > equals] or stated
        answer = candidates[0]
    else:
        answer = stated[-1]
    place = stated.index(answer)
    others = [*stated[place + 1 : place + 2], *stated[max(0, place - 1) : place]]
    for other in others:
        first, second = sorted((answer, other), key=lambda q: q.start)
        gap = text[first.end : second.start]
        pair = (
            text[first.start - 1 : first.start] == "("
            and gap.strip() == ","
            and text[second.end : second.end + 1] == ")"
        )
        either = _ALTERNATIVE.fullmatch(gap) and (led or pair or " or " in gap)
        if not answer.spoilt and either and (first.value, first.unit) != (second.value, second.unit):
            return answer, "ambiguous"
    return answer, answer.spoilt


def _context(question: Question) -> Unit | None:
    """The unit that a bare number is meant in: the references', else the one that the question asks for."""
    wanted = [whole_quantity(unify(reference)) for reference in question.answers]
    return next((q.unit for q in wanted if q is not None and q.unit), None) or asked_unit(question.text)


def _extracted(answer: Quantity, context: Unit | None, question: Question) -> str:
    value, unit = answer.value, answer.unit
    if PERCENT in (unit, context) and {unit, context} <= {PERCENT, None}:
        bare = _bare_percent(question)
        value *= PERCENT.factor if unit is PERCENT else bare
        return f"{canonical(value * 100)}%" if bare != 1 else canonical(value)
    if unit is None:
        return f"{canonical(value)} {context.name}" if context else canonical(value)
    target = context if context and context.base == unit.base else UNITS.get(unit.base, unit)
    return f"{canonical(unit.convert(value, target))} {target.name}"


def _same_noun(noun: str, answer: Quantity, text: str) -> bool:
    """A reference of "5 apples" takes "5" and "5 apples", not "5 oranges"."""
    if answer.unit is not None:
        return False
    word = _noun_behind(answer, text)
    stems = {part.lower().rstrip("s") for part in noun.split()}
    return not word or word.rstrip("s") in stems or word in ("in", "on", "are", "is", "of", "because")


def _noun_behind(answer: Quantity, text: str) -> str:
    behind = re.match(r"\s*([^\W\d]+)", text[answer.end :])
    return behind[1].lower() if behind else ""


def _asked_about(noun: str | None, question: Question) -> bool:
    """Whether this is zero: "none", and "there are no dogs" where the question is about dogs."""
    if noun is None:
        return True
    return noun.split()[-1].lower().rstrip("s") in re.findall(r"\w+?(?=s?\b)", question.text.lower())
