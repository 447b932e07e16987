"""Numbers: exact unless the question allows a tolerance; units are converted, a number of another unit is wrong."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from structdecode.matching.number_words import words_beside_digits, words_to_digits
from structdecode.matching.quantities import (
    Quantity,
    amount,
    canonical,
    plain_math,
    quantities,
    settled,
    whole_quantity,
)
from structdecode.matching.texts import clean, negated, segment, unify
from structdecode.matching.types import Match, Question
from structdecode.matching.units import PERCENT, UNITS, Unit, asked_unit

_ALTERNATIVE = re.compile(r"[^\d.;=]{0,20}?(?:\s+(?:or|and)\s+|\s*/\s*|,\s*)(?:maybe\s+|possibly\s+|perhaps\s+)?")
_IN_DOLLARS = re.compile(r"(?:[a-zA-Z ]{0,30}?)\$([^$]+)\$\s*([^$.]{0,20}?)\s*\.?")
_SENTENCE_END = re.compile(r"[.!?]+\s+|\n")
_ADJUNCT = re.compile(
    r"\b(?:in|by|since|from|after|before|until|during|of|on|year|out of)\s+(?:the\s+|year\s+)*$", re.IGNORECASE
)
_CONCLUDES = re.compile(
    r"(?:\b(?:leav(?:ing|es)|makes?|making|giv(?:es|ing)|equals?|totals?|totall?ing|in total|so|therefore|thus|hence|which is|yields?|results? in"
    r"|comes? to|adds? up to|sums? to|becomes|remain(?:s|ing)?|altogether|that is|get|there (?:are|is|will be) (?:now|still)|i count|=|≈|:)"
    r"(?:\s+(?:there|are|is|it|we|he|she|they|a|an|the|total|of|to|about|get|have|has|be|exactly|only|us|you|with|answer|now|still))*|→|⇒)\s*[,:]?\s*[$€£]?$",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"\bbecause\b", re.IGNORECASE)
_LEFT_OVER = re.compile(
    r"\s*(?:[a-z]+\s+)?(?:are\s+|is\s+)?(?:in total|in all|altogether|left|remain(?:s|ing)?|overall)\b", re.IGNORECASE
)
_OPENS = re.compile(
    r"[\s\"'(\[$*:~≈]*(?:(?:the|an?|approximately|about|exactly|around|roughly|only|just|equal to|there (?:are|is|were|was)|it is|it's|we (?:have|get)|[a-zA-Z]\s*[=:])\s*)*[\s$€£(]*",
    re.IGNORECASE,
)
_NO_NOUNS = ("in", "on", "are", "is", "of", "because")
_ENDING_NOUN = re.compile(r"\s*([^\W\d]+)(?:\s[^\W\d]+)?\s*[.!]?\s*$")
_NO_UNITS = frozenset(
    [
        "in",
        "on",
        "are",
        "is",
        "of",
        "because",
        "total",
        "all",
        "overall",
        "here",
        "now",
        "left",
        "away",
        "altogether",
        "long",
        "tall",
        "wide",
        "high",
        "deep",
        "old",
        "heavy",
        "far",
        "each",
        "unit",
        "units",
        "and",
        "or",
        "at",
        "to",
        "for",
        "per",
        "exactly",
        "approximately",
        "about",
        "remain",
        "remaining",
    ]
)
"""Words that may end a sentence behind a bare number without being its unit."""
_MANY = ("M", "B", "T")
"""Units that are none known, and millions, billions and trillions in the papers."""
_FORMULA = re.compile(r"\\[a-zA-Z]|[√∛∜π|!^]|\b(?:pi|e)\b")
_COMPARED = re.compile(r"\s+(?i:(more|less|fewer|short|extra|additional|off|too (?:many|few|much)))(?=\W*$|\s+than\b)")
"""Behind a number, with no noun between: what is asked has to be a difference."""
_NOTHING = re.compile(
    r"(?:there (?:are|is|were|was) )?(?:none|no (?P<noun>[\w ]{1,40}?))(?: (?:at all|left|visible|in|on|that)\b.*)?[.!]?",
    re.IGNORECASE,
)


def match(text: str, question: Question) -> Match:
    """The number behind "the answer is", else the last one, against each reference.

    A range, a bound ("more than 5"), a calculation without its result and two alternatives are wrong answers.
    """
    answer, problem, statement = read(text, question.text)
    if answer is None:
        return Match(False, problem, "")
    context = _context(question)
    text_of = extracted(answer, context, question)
    rule = "number:different"
    for reference in question.answers:
        correct, rule = compare(answer, reference, question, statement)
        if correct:
            break
    else:
        correct = False
    if rule == "number:unit-differs" and answer.unit is None:  # another noun is another vote
        text_of = f"{canonical(answer.value)} {_symbol_behind(answer, statement) or _noun_behind(answer, statement)}"
    return Match(correct, rule, text_of)


def read(text: str, asked: str = "") -> tuple[Quantity | None, str, str]:
    """The number that a text answers with, else why there is none; and the part of the text that states it."""
    part = segment(clean(text))
    statement = plain_math(part.statement)
    if _FORMULA.search(part.statement) and (formula := _formula(part.statement)) is not None:
        return replace(formula, start=0, end=len(statement)), "", statement
    numerals = any(c.isdigit() for c in statement)
    statement = words_beside_digits(statement) if numerals else words_to_digits(statement)
    found = quantities(statement)
    if not found:
        nothing = _NOTHING.fullmatch(statement.strip())
        if nothing is None or not _asked_about(nothing["noun"], asked):
            return None, "none", statement
        found = [Quantity(Fraction(0), None, 0, len(statement))]
    answer, problem = _chosen(statement, found, part.led)
    if answer is not None and (compared := _COMPARED.match(statement, answer.end)) and compared[1] not in asked.lower():
        problem = problem or "expression"
    if answer is None or problem:
        return None, f"number:{problem}", statement
    return answer, "", statement


def _formula(statement: str) -> Quantity | None:
    return None if whole_quantity(statement) is not None else amount(_result(statement))


def _result(statement: str) -> str:
    r"""A formula by itself; of "4 \cdot 5 = 20" what comes last."""
    if statement.count("$") == 2 and (alone := _IN_DOLLARS.fullmatch(statement.strip())):
        statement = alone[1] + " " + alone[2]
    return "" if "≠" in statement else statement.rpartition("=")[2]


def compare(answer: Quantity, reference: str, question: Question, statement: str = "") -> tuple[bool, str]:
    """Whether the number answers like this reference, and the rule that says so."""
    wanted = amount(unify(reference))
    if wanted is None:
        return False, "number:no-reference"
    if wanted.noun and wanted.unit is None and not _same_noun(wanted.noun, answer, statement):
        return False, "number:unit-differs"
    other = _ENDING_NOUN.match(statement, answer.end) if wanted.unit is not None and answer.unit is None else None
    if other is not None and other[1].lower() not in _NO_UNITS:
        return False, "number:unit-differs"
    asked = wanted.unit or asked_unit(question.text)
    if asked is None and answer.unit is not None and answer.unit.name in _MANY:
        return False, "number:unit-differs"
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
        return _close(value, wanted.value, question, f"number:{rule}", answer.rounded or wanted.rounded)
    if unit.base != asked.base:
        return False, "number:unit-differs"
    rule = "number:exact" if unit == asked else "number:unit"
    return _close(unit.convert(value, asked), wanted.value, question, rule, answer.rounded or wanted.rounded)


def _compare_percent(answer: Quantity, wanted: Quantity, asked: Unit | None, question: Question) -> tuple[bool, str]:
    """Where the question asks for a percentage bare numbers are percents, elsewhere they are fractions (of 1)."""
    if not {answer.unit, wanted.unit} <= {PERCENT, None} or asked not in (PERCENT, None):
        return False, "number:unit-differs"
    bare = _bare_percent(question)
    value = answer.value * (PERCENT.factor if answer.unit is PERCENT else bare)
    target = wanted.value * (PERCENT.factor if wanted.unit is PERCENT else bare)
    rule = "number:exact" if answer.unit is wanted.unit else "number:percent"
    return _close(value, target, question, rule, answer.rounded or wanted.rounded)


def _bare_percent(question: Question) -> Fraction:
    return PERCENT.factor if asked_unit(question.text) is PERCENT else Fraction(1)


def _close(value: Fraction, target: Fraction, question: Question, rule: str, rounded: bool = False) -> tuple[bool, str]:
    if settled(value, rounded) == settled(target, rounded):
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
    answer, said = _deciding(text, stated, led)
    if answer is None:
        return None, "ambiguous"
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
        either = not said and _ALTERNATIVE.fullmatch(gap) and (led or pair or " or " in gap)
        if not answer.spoilt and either and (first.value, first.unit) != (second.value, second.unit):
            return answer, "ambiguous"
    return answer, answer.spoilt


def _deciding(text: str, stated: list[Quantity], led: bool) -> tuple[Quantity | None, bool]:
    """The number that the sentence makes its answer, and whether that is said; None where nothing does."""
    equals = text.rfind("=")
    candidates = [q for q in stated if q.start > equals] if equals >= 0 else []
    if candidates:
        return (candidates[0] if led else candidates[-1]), False
    if not led:
        start = max((m.end() for m in _SENTENCE_END.finditer(text, 0, stated[-1].start)), default=0)
        stated = [q for q in stated if q.start >= start]
    stated = [
        q for q in stated if not _ADJUNCT.search(text[max(0, q.start - 40) : q.start]) or _is_amount(q, text)
    ] or stated
    if not led and (reason := _BECAUSE.search(text)) is not None:
        stated = [q for q in stated if q.end <= reason.start()] or stated
    first, last = stated[0], stated[-1]
    if len({(q.exact, q.unit and q.unit.base) for q in stated}) == 1:
        return last, False
    if _CONCLUDES.search(text[max(0, last.start - 60) : last.start]) or _LEFT_OVER.match(text, last.end):
        return last, True
    if led and _OPENS.fullmatch(text, 0, first.start):
        return first, False
    if any(q.spoilt for q in stated):
        return (first if led else last), False
    gaps = [text[a.end : b.start] for a, b in pairwise(stated)]
    if all(_ALTERNATIVE.fullmatch(gap) for gap in gaps) and led:
        return first, False
    return None, False


def _is_amount(quantity: Quantity, text: str) -> bool:
    """Whether "in 5 minutes" or "in 12 boxes" may be what is asked, unlike "in 2019" and "out of 8 things"."""
    before = text[max(0, quantity.start - 40) : quantity.start].lower().rstrip()
    if before.endswith("out of"):
        return False
    year = quantity.unit is None and quantity.value.denominator == 1 and 1000 <= quantity.value <= 2100
    return not year or "," in text[quantity.start : quantity.end]


def _context(question: Question) -> Unit | None:
    """The unit that a bare number is meant in: the references', else the one that the question asks for."""
    wanted = [amount(unify(reference)) for reference in question.answers]
    return next((q.unit for q in wanted if q is not None and q.unit), None) or asked_unit(question.text)


def extracted(answer: Quantity, context: Unit | None, question: Question) -> str:
    """The number as a text, in the unit that a bare one is meant in."""
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
    return not word or word.rstrip("s") in stems or word in _NO_NOUNS


def noun(answer: Quantity, text: str) -> str:
    """What is counted: the first word behind the number, unless it only goes on with the sentence."""
    word = "" if answer.unit is not None else _noun_behind(answer, text)
    return "" if word in _NO_NOUNS else word


def _noun_behind(answer: Quantity, text: str) -> str:
    behind = re.match(r"\s*([^\W\d]+)", text[answer.end :])
    return behind[1].lower() if behind else ""


def _symbol_behind(answer: Quantity, text: str) -> str:
    """A unit's symbol that is none known, as it is written: J is no j."""
    behind = re.match(r"\s*([A-Z]|[kM](?:W|V|J|Pa|N|Hz))\b", text[answer.end :])
    return behind[1] if behind else ""


def _asked_about(noun: str | None, question: str) -> bool:
    """Whether this is zero: "none", and "there are no dogs" where the question is about dogs."""
    if noun is None:
        return True
    return noun.split()[-1].lower().rstrip("s") in re.findall(r"\w+?(?=s?\b)", question.lower())
