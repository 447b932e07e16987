"""Numbers in text: what is written there, exactly, and what stands around it."""

from __future__ import annotations

import decimal
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from structdecode.matching.exact import evaluate
from structdecode.matching.number_words import NUMBER_WORDS, SCALES, words_to_digits
from structdecode.matching.texts import unify
from structdecode.matching.units import SPELLING, Unit, unit_named

MAX_DIGITS = 1000
"""Longer numerals are no numbers to us: arithmetic on them is a way to hang a run."""

_PLAIN = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:'\d{3})+(?:\.\d+)?"
    r"|\d+,\d{1,2}(?![\d,])|\d+(?:\.\d+)?|\.\d+)"
)
_STRANGE = r"[^\W\d]{1,12}(?:\^-?\d|\^\{-?\d\}|/[^\W\d]{1,12})+"
_TOKEN = re.compile(
    rf"(?<![\w.^/,])(?<!\d:)(?<!\d')(?<![^\W\d]-)(?P<sign>(?:[-+]|\b(?:minus|negative)\s)\s?)?(?P<currency>US\$|[$€£¥₹])?\s?(?P<sign2>-)?"
    rf"(?:(?P<whole>\d+)\s+(?P<up>\d+)/(?P<down>\d+)|(?P<top>\d+)\s?/\s?(?P<bottom>\d+)(?!\s?/)"
    rf"|(?P<base>\d+)\^\{{?(?P<power>-?\d+)\}}?|(?P<plain>{_PLAIN}))(?!\d|[.,:']\d|/\d|\.\.\d)"
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\w)|\s?(?:\u00d7|x|\*|·)\s?10\s?\^\s?[({]?(?P<ten>[-+]?\d{1,4})[)}]?(?!\d))?"
    r"(?P<kilo>[kK](?!\w))?(?:\s(?P<scale>(?i:dozen|hundred|thousand|million|billion|trillion))\b)?"
    rf"(?:[\s-]{{0,2}}(?:(?P<unit>(?i:{SPELLING}))|(?P<strange>{_STRANGE}))|(?P<attached>[^\W\d]|\^))?"
)

_LABEL = re.compile(r"\b(?:step|figure|fig\.?|table|page|equation|eq\.?|option|question|image|picture|chapter|section|line|item|no\.)\s?#?\(?$", re.IGNORECASE)  # fmt: skip
_AROUND = 16
_BOUND = re.compile(
    r"(?:\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than|\bat (?:least|most)|\bover|\bunder|\babove|\bbelow"
    r"|\bup to|\bexceeds|\bnearly|\balmost|\b(?:close|next) to|\bshort of|\bfar from|\bnowhere near|\bbetween|\b(?:an?\s)?(?:maximum|minimum)(?: of)?|[<>≤≥≠]|!=|\\n(?:eq?|ot\s*=))\s*$",
    re.IGNORECASE,
)
_OPERATOR = re.compile(
    r"\s*[+*\u00d7÷/·]\s*|\s+-\s+|\s*±\s*|\s+(?:plus|minus|times|over|into|from|take away|per|mod(?:ulo)?|(?:multiplied|divided) by|added to|subtracted from)\s+|\s*\bin\s+|\s+(?:out\s+)?of\s+(?:the\s+|all\s+)?|[ \t]+"
)
_BOUND_AFTER = re.compile(
    r"\s*(?:at (?:most|least)|or (?:more|less|fewer|over|under|higher|lower|greater|above|below)|and (?:up|over|above|below|counting)|below|minimum|maximum|[<>≤≥≠]|!=\s)(?!\w)",
    re.IGNORECASE,
)
_FUNCTION_BEFORE = re.compile(
    r"(?:[√∛∜]|(?<![a-zA-Z])[a-zA-Z](?=\()|\bsqrt|\\[a-z]+|\blog|\bln|\bsin|\bcos|\btan|\b(?:root|square|cube|half|third|double|product|sum|difference|quotient|inverse|reciprocal|negative|opposite|multiple|multiples) of|\b(?:double|triple|treble|quadruple|half|twice|thrice|times|subtract|(?:multipl\w+|divided?|divide) by|divisible by|mod(?:ulo)?)|[!¬±]|\+/-)\s*[({]{0,2}\s*$",
    re.IGNORECASE,
)
_FACTOR_AFTER = re.compile(
    r"\s*(?:\\[a-z]+|π|pi\b|squared|cubed|factorial|(?i:(?:doubled|halved|tripled|trebled|quadrupled|twice|thrice|mod|modulo|hex|(?:in |in the )?(?:binary|hexadecimal|octal)|degrees below)\b)|[\s-]?fold\b|,? give or take\b|and (?:change|a bit|some)\b|[\s-]?(?:odd|something)\b(?!\s\w)|[ijxyz]\b|(?:more|less|fewer) than [a-z]\b|[-+*/]\s*\d*[a-zA-Z]\b|[<>≤≥]|\\[lg]eq?\b|and (?:a|one) (?:half|quarter|third)\b|[\s-]*(?:halves|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth)s?)\b"
    r"|times (?:\w+er|as|more|the)\b|o'clock|-ish|\+(?!\s*\d)"
    r"|(?i:bps|lakhs?|crores?|mio|mrd|mln|dozens|tens|score|hundreds|thousands|millions|billions|to the power|raised to)\b|(?:more|less|fewer) than (?:\d|[a-z]+\b)|[‰‱万萬千百亿億十]|below zero\b"
    rf"|(?i:point|plus|minus|times|over|divided by)\s(?:{'|'.join(NUMBER_WORDS)})\b|and (?:{'|'.join(NUMBER_WORDS)}) (?:halves|quarters?|thirds?|fourths?|fifths?)\b"
    r"|\(\s*(?i:wrong|incorrect|not)\b)",
)
_RANGE = re.compile(r"\s*(?:-|~|\.\.+|…)\s*|\s+(?:to|through)\s+")

_WORD_COMMAND = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox|operatorname)\s?\{\s*([^{}\\]*)\}")
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree")
_ASSIGNED = re.compile(r"^[a-zA-Z](?:_\w)?\s*=\s*(?=[^=]*$)")
_UNIT_BEHIND = re.compile(
    rf"(?P<formula>.*[\d)}}\s!|])\s*(?P<unit>(?i:{SPELLING})|{_STRANGE}|(?:[A-Z]|[kM](?:W|V|J|Pa|N|Hz))\b|°)\s*"
)
_PAIR = re.compile(r"\(\s*-?\d+\s*,\s*-?\d+\s*\)(?<!,\d{3}\))")
_PART_BEFORE = re.compile(r"(?:[{^_|\\√∛∜]|\\[a-zA-Z]+)\s*\Z")
_PART_AFTER = re.compile(r"\s*[}|]|\s?\\(?:pi|sqrt|frac|cdot|div)")

_SPACED = re.compile(r"^(\s*[-+]?\d{1,3}(?: \d{3})+)(?=[^\d,]*$|\.\d+[^\d,]*$)")

_LATEX = [
    (re.compile(r"(?<![\\\w$])\$(?!\s)([^$\n]*[\w})\]%°!|'])\$(?![\d$])"), r" \1 "),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}"), r" \1/\2 "),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname|textit|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;:! ]|~"), " "),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\times|\\cdot"), "\u00d7"),
    (re.compile(r"\^\s*\{?\\circ\}?|\\degree"), "°"),
    (re.compile(r"\\(?:left|right)(?![a-z])|\\[()\[\]]"), " "),
    (re.compile(r"\\approx|≈|\\simeq"), " "),
    (re.compile(r"\$\$|\$(?=[^$\d\s]*\\)|\$(-?[\d.,/^{} \u00d7]+[a-zA-Z%°^2-3 ]*)\$(?!\d)"), r"\1"),
    (re.compile(r"(?<=[\w.}) ])\$(?!\d)"), ""),
]


@dataclass(frozen=True)
class Quantity:
    """A number as written, with what its surroundings make of it.

    Attributes:
        noun: the words right behind it that are no known unit ("apples").
        spoilt: why it is not simply this number: ``range``, ``bound``, ``expression`` or ``negated``; else empty.
        rounded: whether ``value`` is an irrational number's first 40 digits.
    """

    value: Fraction
    unit: Unit | None
    start: int
    end: int
    noun: str = ""
    spoilt: str = ""
    rounded: bool = False

    @property
    def exact(self) -> Hashable:
        """Equal for equal values in the unit's base: the fraction itself, or 30 digits of a number that is none."""
        base = self.value if self.unit is None else self.value * self.unit.factor + self.unit.offset
        return settled(base, self.rounded)


def settled(value: Fraction, rounded: bool) -> Hashable:
    """The form by which values are compared: relatively, whatever their size."""
    if not rounded:
        return value
    kept = decimal.Context(prec=30, Emax=10**6, Emin=-(10**6))
    return str(kept.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(kept))


def plain_math(text: str) -> str:
    """LaTeX spellings of plain numbers and units, as plain text."""
    if "\\" in text or "$" in text or "{" in text or "≈" in text:
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
        text = re.sub(r"[ \t]{2,}", " ", text)
    return _SPACED.sub(lambda m: m[1].replace(" ", ""), text)


def quantities(text: str) -> list[Quantity]:
    """Every number in the text, left to right. Number words count where there are no digits."""
    if not any(c.isdigit() for c in text):
        text = words_to_digits(text)
    found = [q for match in _TOKEN.finditer(text) if (q := _read(text, match)) is not None]
    return list(_joined(text, _compound(text, found)))


def whole_quantity(text: str) -> Quantity | None:
    """The one number that the text consists of, with at most a unit or a noun behind it."""
    text = plain_math(text).strip().rstrip(".")
    if not any(c.isdigit() for c in text):
        text = words_to_digits(text)
    found = [] if _PAIR.fullmatch(text) else quantities(text)
    if len(found) != 1 or found[0].spoilt or text[: found[0].start].strip(" ("):
        return None
    rest = text[found[0].end :].strip(" )")
    if rest and not re.fullmatch(r"[^\W\d]+(?:[\s-][^\W\d]+){0,2}", rest):
        return None
    return replace(found[0], noun=rest)


def amount(text: str) -> Quantity | None:
    r"""The one value that all of the text is: a quantity, or a formula with at most a unit behind it (``5\pi`` kg)."""
    found = whole_quantity(text)
    if found is not None:
        return found
    if not re.search(r"[\\\d√∛∜π|]|\bpi\b|\be\b", text):
        return None
    text = _DEGREES.sub("°", _WORD_COMMAND.sub(r" \1 ", unify(text).replace("$", " ").replace("\\%", "%"))).strip()
    text = _ASSIGNED.sub("", text.rstrip(" .,;"))
    text = re.sub(r"(?<=[a-z])\s*\^\s*\{?([23])\}?\s*$", r"^\1", text)
    unit = None
    formula = evaluate(text)
    if (formula is None or formula.number is None) and (behind := _UNIT_BEHIND.fullmatch(text)) is not None:
        formula, unit = evaluate(behind["formula"]), unit_named(behind["unit"]) or Unit(behind["unit"], behind["unit"])
    if formula is None or formula.number is None:
        return None
    return Quantity(formula.number, unit, 0, len(text), rounded=isinstance(formula.value, str))


def _read(text: str, match: re.Match[str]) -> Quantity | None:
    value = _value(match)
    if value is None or _LABEL.search(text, max(0, match.start() - 12), match.start()):
        return None
    sign = (match["sign"] or "").strip()
    minus = sign in ("-", "minus", "negative") and not _is_operator(text, match)
    if minus != (match["sign2"] is not None):
        value = -value
    name = match["currency"] or match["unit"] or match["strange"]
    unit, end = unit_named(name) if name else None, match.end()
    if match["unit"] and (match["currency"] or _is_preposition(text, match)):
        unit, end = unit_named(match["currency"] or ""), match.start("unit")
    elif name and unit is None:  # "5 M" and "5 cm/s" are of units that we do not know, not without one
        unit = Unit(name, name)
    partial = _PART_BEFORE.search(text[max(0, match.start() - 16) : match.start()]) or _PART_AFTER.match(text, end)
    around = (
        partial
        or _FUNCTION_BEFORE.search(text, max(0, match.start() - _AROUND), match.start())
        or _FACTOR_AFTER.match(text, end)
    )
    bound = _BOUND.search(text, max(0, match.start() - _AROUND), match.start()) or _BOUND_AFTER.match(text, end)
    spoilt = "expression" if around else "bound" if bound else ""
    start = match.start() if minus or not sign else match.start("sign") + len(match["sign"])
    return Quantity(value, unit, start, end, spoilt=spoilt)


def altered(text: str, start: int) -> bool:
    """Whether what stands before a number or a formula makes another of it: "twice", "at least"."""
    return any(pattern.search(text, max(0, start - _AROUND), start) for pattern in (_BOUND, _FUNCTION_BEFORE))


def _is_operator(text: str, match: re.Match[str]) -> bool:
    """Whether a minus subtracts: behind a number, or spaced on both sides behind a word."""
    before = text[max(0, match.start() - 2) : match.start()]
    spaced = before[-1:].isspace() and match["sign"][-1:].isspace() and match["sign"][0] == "-"
    last = before.rstrip()[-1:]
    return last.isdigit() or last == ")" or (spaced and last.isalnum())


def _is_preposition(text: str, match: re.Match[str]) -> bool:
    """Whether it is no length: "5 in the box"."""
    return match["unit"].lower() in ("in", "a") and re.match(r"\s+\w", text[match.end() : match.end() + 4]) is not None


def _value(match: re.Match[str]) -> Fraction | None:
    if match["attached"] or any(len(group) > MAX_DIGITS for group in match.groups() if group):
        return None
    try:
        if match["up"]:
            value = int(match["whole"]) + Fraction(int(match["up"]), int(match["down"]))
        elif match["top"]:
            value = Fraction(int(match["top"]), int(match["bottom"]))
        elif match["base"]:
            power = int(match["power"])
            if abs(power) > MAX_DIGITS or len(match["base"]) * abs(power) > 2 * MAX_DIGITS:
                return None
            value = Fraction(int(match["base"])) ** power
        else:
            value = _decimal(match["plain"])
    except ZeroDivisionError:
        return None
    exponent = int(match["e"] or match["ten"] or 0)
    if abs(exponent) > MAX_DIGITS:
        return None
    value *= Fraction(10) ** exponent
    return value * (1000 if match["kilo"] else 1) * SCALES.get((match["scale"] or "").lower(), 1)


def _decimal(numeral: str) -> Fraction:
    """A comma groups thousands; only where it cannot ("1,5", "1.500,25") it is the decimal sign."""
    numeral = numeral.replace("'", "")
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", numeral):
        numeral = numeral.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d{1,2}", numeral):
        numeral = numeral.replace(",", ".")
    return Fraction(numeral.replace(",", ""))


def _compound(text: str, found: list[Quantity]) -> Iterator[Quantity]:
    """Makes one quantity of "2 hours 30 minutes" and of "5 ft 3 in"."""
    held: Quantity | None = None
    for q in found:
        if (
            held is not None and held.unit and q.unit and held.unit.base == q.unit.base and q.value >= 0
            and q.unit.factor < held.unit.factor and not held.unit.offset and not held.spoilt and not q.spoilt
            and re.fullmatch(r"\s*,?\s*(?:and\s+)?", text[held.end : q.start])
        ):  # fmt: skip
            sign = -1 if held.value < 0 else 1
            held = replace(held, value=held.value + sign * q.unit.convert(q.value, held.unit), end=q.end)
            continue
        if held is not None:
            yield held
        held = q
    if held is not None:
        yield held


def _joined(text: str, found: Iterator[Quantity]) -> Iterator[Quantity]:
    """Marks the ends of a range and the terms of an expression."""
    previous: Quantity | None = None
    for q in found:
        gap = text[previous.end : q.start] if previous else ""
        kind = "range" if _RANGE.fullmatch(gap) else "expression" if _OPERATOR.fullmatch(gap) else ""
        if previous and previous.spoilt == "bound" and re.fullmatch(r"\s+and\s+", gap):
            kind = "range"
        if previous is not None:
            yield replace(previous, spoilt=kind) if kind else previous
        previous = replace(q, spoilt=kind) if kind else q
    if previous is not None:
        yield previous


def canonical(value: Fraction) -> str:
    """A decimal where it ends within 50 places, else ``p/q``."""
    if value.denominator == 1:
        return str(value.numerator)
    twos_and_fives, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while twos_and_fives % prime == 0 and count <= 50:
            twos_and_fives, count = twos_and_fives // prime, count + 1
        places = max(places, count)
    if twos_and_fives != 1 or places > 50:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
