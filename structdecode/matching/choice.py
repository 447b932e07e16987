"""Multiple choice: by letter or by the text of an option. Two options named, or a letter that its text belies, is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from structdecode.matching import numbers, yes_no
from structdecode.matching.declined import undetermined
from structdecode.matching.quantities import Quantity, amount, plain_math, settled
from structdecode.matching.text import normalise
from structdecode.matching.texts import COPULA_BEHIND, before_boxes, clean, closing, negated, segment, unify
from structdecode.matching.types import Match, Question
from structdecode.matching.units import PERCENT

_WHOLE_LETTER = re.compile(
    r"[\s(\[{$\"']*(?:option |choice |answer )?[(\[]?(?:\\(?:text|mathrm|textbf)\{\(?)?([A-Za-z])[)}\]$\"']*\s?[.:,;!)]*\s*$",
    re.IGNORECASE,
)
_FIRST_LETTER = re.compile(
    r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])\)|([A-Z])[.:](?=\s|$)|([A-Z])(?=\s+-\s))[:.]?\s*"
)
_MARKED = re.compile(
    r"(?<!\w)(?:[(\[]([A-Za-z])[)\]]|\b(?:option|choice|letter|answer)\s+[\"'(]?([A-Z])\b[\"')]?|(?:^|(?<=\n)|(?<=[.!?:]\s))([A-Z])[.):](?=\s|$))",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"(?:\b(?:is|be|choose|chose|select|pick|say|with|was|answer|actually|therefore|thus|so|it's|or|and|no|mean|guess|think|believe|but|nor|not|neither|to|however|yet|maybe|perhaps|possibly|kidding|rather)\s+|[=:→≠]\s*|^\s*|[.!?]\s+|\n\s*|[,;]\s*|/\s*)"
    r"[\"']?([A-Z])[\"']?(?=\s*(?:[.,;:!?()/\n→≠]|$|\s(?:because|since|as|is|or|and|nor|not|but|rather|instead|given|which|due|was|looks|seems|would|can|-)\b|\s-))"
)
_PAIR = re.compile(
    r"(?<![\w'])([A-Z])(?=[)\]\"']*\s*(?:,|/|&|\bor\b|\band\b|\bnor\b|\bvs)\s*[(\[\"']*([A-Z])(?![\w']))"
)
_FUNCTION_WORDS = frozenset(
    [
        "in",
        "on",
        "at",
        "to",
        "by",
        "of",
        "for",
        "with",
        "as",
        "is",
        "are",
        "it",
        "and",
        "or",
        "not",
        "be",
        "an",
        "the",
        "from",
        "one",
        "this",
        "that",
        "he",
        "she",
        "they",
        "we",
        "you",
        "up",
        "out",
        "off",
        "all",
    ]
)
"""Words of any sentence: as options they are named where they end the text ("It is on."), not on the way."""
_LIST_GAP = re.compile(r"[\s)\"'\]]*(?:,|/|\bor\b|\bnor\b|\band\b|,\s*(?:or|nor|and)\b)[\s(\"'\[]*", re.IGNORECASE)
_ABOUT_LETTER = re.compile(
    r"\b(?:(?:start|begin|end|rhym|compar|finish)\w* (?:with|in|to)|(?:next|related|similar|close|adjacent|near|opposed|opposite|prior|due|prefer\w* \S+) to|far from|nowhere near"
    r"|(?:first|second|last|initial|final|middle) (?:letter|character|word) (?:is|was))(?:\s+(?:an?|the))?(?:\s+letter)?\s*[\"'(]*$",
    re.IGNORECASE,
)
"""A letter of the alphabet, or what the answer stands beside, is no answer."""
_HARD_NEGATION = re.compile(r"\b(?:not|neither|nor|none of)\W+(?:\w+\W+)?$|n't\s+$", re.IGNORECASE)


@dataclass(frozen=True)
class _Mention:
    letter: str
    start: int
    end: int


def match(text: str, question: Question) -> Match:
    """The option that the answer names, against the references (letters or option texts)."""
    options = {letter.strip().upper(): text for letter, text in question.options.items()}
    right = {letter for answer in question.answers for letter in _letters_of(answer, options)}
    text = clean(text)
    letter, rule = find(text, options)
    if letter is None:
        return Match(False, rule, "")
    return Match(letter in right, rule, letter.lower())


def whole_letter(text: str) -> str | None:
    """The letter that is all of a text: B, "(B)", "B.", "option B"."""
    found = _WHOLE_LETTER.match(text)
    return found[1].upper() if found else None


def find(text: str, options: Mapping[str, str]) -> tuple[str | None, str]:
    """The letter of the option that a cleaned text names, and by which rule; None where it names none or several."""
    part = segment(text, polar=any(map(_polar, options.values())))
    letter, rule = _named(COPULA_BEHIND.sub("", part.statement), options, part.led)
    if letter is None and rule == "none" and (earlier := before_boxes(text)) is not None:  # the boxes are of reasoning
        letter, rule = _named(earlier.statement, options, True)
    if letter is None and rule != "choice:contradiction" and not part.led and (last := closing(text)) is not None:
        concluded = _named(last, options, True)
        letter, rule = concluded if concluded[0] else (letter, rule)
    return letter, rule


def _named(text: str, options: Mapping[str, str], led: bool) -> tuple[str | None, str]:
    known = set(options) or {chr(code) for code in range(ord("A"), ord("Z") + 1)}
    whole = _WHOLE_LETTER.match(text)
    if whole and whole[1].upper() in known:
        return whole[1].upper(), "choice:letter"
    by_text = [
        letter for letter, option in options.items() if normalise(option) and normalise(option) == normalise(text)
    ]
    if len(by_text) == 1:
        return by_text[0], "choice:text"
    if len(by_text) > 1:
        return None, "choice:ambiguous"
    first = _FIRST_LETTER.match(text)
    if first and (letter := next(filter(None, first.groups())).upper()) in known:
        return _first_letter(letter, text, first.end(), options)
    if (letter := _by_value(text, options)) is not None:
        return letter, "choice:value"
    plain = {letter: option for letter, option in options.items() if _polar(option) is None}
    named, written = _letter_mentions(text, known), _text_mentions(text, plain, strict=not led)
    letters = [m for m in _standing(text, named) if not _ABOUT_LETTER.search(text, max(0, m.start - 40), m.start)]
    letter, rule = _agreed(letters, _standing(text, written), text, options)
    if len(plain) < len(options) and rule in ("none", "choice:letter"):
        letter, rule = _with_polarity(letter, rule, text, options, led)
    if rule == "none" and not written and options and (stated := numbers.read(text)[0]) is not None:
        letter = _of_value(stated, options)
        rule = rule if letter is None else "choice:value"
    return letter, "choice:negated" if rule == "none" and (named or written) else rule


def _polar(option: str) -> str | None:
    return yes_no.POLARITY.get(normalise(option))


def _with_polarity(
    letter: str | None, rule: str, text: str, options: Mapping[str, str], led: bool
) -> tuple[str | None, str]:
    """Yes, no, true and false are ordinary words: as options they are named by the rules of yes/no questions."""
    verdict, why = yes_no.polarity(text, led)
    if why == "yes-no:contradiction" and letter is None:
        return None, "choice:ambiguous"
    meant = [name for name, option in options.items() if verdict is not None and _polar(option) == verdict]
    if letter is not None:
        return (None, "choice:contradiction") if meant and letter not in meant else (letter, rule)
    return (meant[0], "choice:text-within") if len(meant) == 1 else (None, "none")


def _by_value(text: str, options: Mapping[str, str]) -> str | None:
    r"""The option with the value that all of the text is: ``\frac{1}{2}`` names 0.5, "60 degrees" names 60°."""
    given = amount(text.strip().rstrip("."))
    return None if given is None or given.noun else _of_value(given, options)


def _of_value(given: Quantity, options: Mapping[str, str]) -> str | None:
    """A bare number names an option with a unit, and the other way round, where only one has that value."""
    values = {letter: value for letter, option in options.items() if (value := amount(unify(option))) is not None}
    same = [
        letter
        for letter, value in values.items()
        if value.exact == given.exact and _kind_of_base(value) == _kind_of_base(given) and not value.noun
    ]
    if len(same) == 1:
        return same[0]
    loose = [
        letter
        for letter, value in values.items()
        if PERCENT not in (given.unit, value.unit)
        and (given.unit is None or (value.unit is None and not value.noun))
        and settled(value.value, value.rounded) == settled(given.value, given.rounded)
    ]
    return loose[0] if len(loose) == 1 and not same else None


def _kind_of_base(quantity: Quantity) -> str:
    """The unit's dimension; none for a percentage, which is a number (75% is 3/4)."""
    return quantity.unit.base if quantity.unit and quantity.unit is not PERCENT else ""


def _first_letter(letter: str, text: str, end: int, options: Mapping[str, str]) -> tuple[str | None, str]:
    """In "(B) red" the text has to be B's own, or at least no other option's, and no other letter may follow."""
    rest = text[end:]
    if normalise(rest) == normalise(options.get(letter, "")):
        return letter, "choice:letter"
    own = re.match(_bounded(clean(options.get(letter, "")).lower()), rest.lower()) if options.get(letter) else None
    if negated(text, 0, end) or (own is not None and negated(rest, 0, own.end())):
        return None, "choice:negated"
    others = {m.letter for m in _standing(rest, _letter_mentions(rest, set(options) or {letter}))} - {letter}
    if others:
        return None, "choice:ambiguous"
    mentioned = {m.letter for m in _standing(rest, _text_mentions(rest, options, strict=False))}
    if mentioned and letter not in mentioned:
        return None, "choice:contradiction"
    line = re.split(r"[.\n]", rest, maxsplit=1)[0]
    if {m.letter for m in _standing(line, _text_mentions(line, options, strict=False))} - {letter} and mentioned:
        return None, "choice:ambiguous"
    return letter, "choice:letter"


def _agreed(
    letters: list[_Mention], inside: list[_Mention], text: str, options: Mapping[str, str]
) -> tuple[str | None, str]:
    named, written = {m.letter for m in letters}, {m.letter for m in inside}
    if len(named) == 1:
        if written and not named & written:
            return None, "choice:contradiction"
        if len(written) > 1:
            return None, "choice:ambiguous"
        return next(iter(named)), "choice:letter"
    if len(named) > 1:
        return None, "choice:ambiguous"
    if len(written) == 1:
        return next(iter(written)), "choice:text-within"
    if len(written) > 1:
        return None, "choice:ambiguous"
    if undetermined(text):
        open_ones = [letter for letter, option in options.items() if undetermined(option)]
        if len(open_ones) == 1:
            return open_ones[0], "choice:undetermined"
    return None, "none"


def _letter_mentions(text: str, known: set[str]) -> list[_Mention]:
    found = {}
    for pattern in (_MARKED, _BARE):
        position = 0
        while (match := pattern.search(text, position)) is not None:
            group = next(i for i, value in enumerate(match.groups(), 1) if value)
            letter, start = match[group], match.start(group)
            lower = letter.islower() and not (text[start - 1 : start] in "([" and text[start - 1 : start])
            if letter.upper() in known and not lower:
                found[start] = _Mention(letter.upper(), start, match.end(group))
            position = match.end(group)
    for match in _PAIR.finditer(text):
        for group in (1, 2):
            if match[group].upper() in known:
                found.setdefault(match.start(group), _Mention(match[group], match.start(group), match.end(group)))
    return [found[start] for start in sorted(found)]


def _text_mentions(text: str, options: Mapping[str, str], strict: bool) -> list[_Mention]:
    """Whole option texts, longest first, so that "red" is not found in "dark red".

    With ``strict`` a number is found only where it is the text's only one: any other might be the answer.
    """
    lower, found = plain_math(text).lower() if len(plain_math(text)) == len(text) else text.lower(), list[_Mention]()
    for letter, option in sorted(options.items(), key=lambda item: -len(item[1])):
        words = clean(option).lower().rstrip(".")
        if not words or (len(words) == 1 and words.isalpha()):
            continue
        for match in re.finditer(_bounded(words), lower):
            if words in _FUNCTION_WORDS and lower[match.end() :].strip(" .!\"')"):
                continue
            if all(
                match.end() <= m.start or match.start() >= m.end or options[m.letter].lower() == option.lower()
                for m in found
            ):
                found.append(_Mention(letter, match.start(), match.end()))
    found.sort(key=lambda m: m.start)
    if strict and any(any(c.isdigit() for c in lower[m.start : m.end]) for m in found):
        kept = list(lower)
        for m in found:
            kept[m.start : m.end] = " " * (m.end - m.start)
        if any(c.isdigit() for c in kept):
            return []
    return found


def _bounded(words: str) -> str:
    """Not inside a longer word or number: 12 is not in 112, 5 is not in 1.5, -5 or 5%."""
    left = r"(?<![\w.,/^{|√∛∜!-])" if words[0].isdigit() else r"(?<!\w)(?<!\w-)" if words[0].isalnum() else r"(?<!\w)"
    right = r"(?![\w%/^}|!°π]|[.,:]\d|\s?%|\s?\\[a-z])" if words[-1].isdigit() else r"(?!\w)(?!-\w)(?!'\w)"
    return left + r"\s+".join(map(re.escape, words.split())) + right


def _standing(text: str, mentions: list[_Mention]) -> list[_Mention]:
    """Those that the text does not deny; "not A, B or C" denies all three."""
    standing, denied_until = list[_Mention](), -1
    for mention in mentions:
        in_list = denied_until >= 0 and _LIST_GAP.fullmatch(text[denied_until : mention.start]) is not None
        hard = _HARD_NEGATION.search(text, max(0, mention.start - 30), mention.start) is not None
        if hard or in_list:
            denied_until = mention.end
        elif negated(text, mention.start, mention.end):
            denied_until = -1
        else:
            standing.append(mention)
            denied_until = -1
    return standing


def _letters_of(answer: str, options: Mapping[str, str]) -> list[str]:
    """The letters that a reference stands for: itself, or those of the options with its text."""
    bare = re.fullmatch(r"\s*\(?([A-Za-z])\)?[.:]?\s*", answer)
    if bare and (not options or bare[1].upper() in options):
        return [bare[1].upper()]
    by_text = [letter for letter, option in options.items() if normalise(option) == normalise(answer)]
    if by_text:
        return by_text
    if (by_value := _by_value(answer, options)) is not None:
        return [by_value]
    first = _FIRST_LETTER.match(answer)
    letter = next(filter(None, first.groups())).upper() if first else ""
    return [letter] if letter in options else []
