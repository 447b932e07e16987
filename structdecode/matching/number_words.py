"""Numbers written as words."""

from __future__ import annotations

import re

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: i for i, word in enumerate(NUMBER_WORDS)} | {word: 10 * i + 20 for i, word in enumerate(_TENS)}
_UNIT_WORD = "|".join(NUMBER_WORDS[1:10])
_UP_TO_99 = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{_UNIT_WORD}))?|{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})"
)
_WORDS = re.compile(
    rf"\b(?:(?P<hundreds>{_UNIT_WORD}|an?)\s(?P<big>hundred|dozen|thousand|million)(?!\s(?:hundred|thousand|million))"
    rf"(?:\s(?:and\s)?(?P<rest>{_UP_TO_99}))?|(?P<small>{_UP_TO_99})(?=\s(?:thousand|million|billion|dozen)\b)|(?P<half>(?:an?\s|one[\s-])?half)"
    rf"|(?P<plain>{_UP_TO_99})|(?P<hundred>hundred))\b",
    re.IGNORECASE,
)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:no|the|this|that|each|which|any|every|left|right|first|last|another|other|some|red|blue|green|big|small)\s$",
    re.IGNORECASE,
)
_PRONOUN_AFTER = re.compile(
    r"\s(?:of|can|could|may|might|should|has|must|another|who|that|would|thing)\b", re.IGNORECASE
)

_OPERATION = (
    r"(?:and|or|to|plus|minus|times|over|into|per|from|take away|mod(?:ulo)?|(?:multiplied|divided) by|added to"
    r"|subtracted from|vs\.?|versus)"
)
_BEHIND_NUMERAL = re.compile(rf"\d(?:-|\s{_OPERATION}\s)$", re.IGNORECASE)
_BEHIND_COUNTED = re.compile(r"\d\s[^\W\d]+\s(?:and|or)\s$", re.IGNORECASE)
_BEFORE_NUMERAL = re.compile(rf"\s{_OPERATION}\s\d", re.IGNORECASE)
_BEHIND_TURN = re.compile(
    r"(?:\b(?:but|then|now|no|rather|sorry|i mean|make (?:it|that)|i (?:count|say|see))\b|→)[\s,]*"
    r"(?:(?:it|that|there|i|we)(?:'s|'re|\s+(?:is|are|was|say|see|count|think|mean|get))\s+)?"
    r"(?:(?:really|actually|in fact|only|now|i|say|see|count)\s+)*$",
    re.IGNORECASE,
)
_ENDS_SENTENCE = re.compile(r"(?:\s[^\W\d]+)?\s*(?:[.!;\n]|$)")


def words_to_digits(text: str) -> str:
    """Zero to a hundred and the usual large numbers; "one" only where it is no pronoun."""

    def digits(match: re.Match[str]) -> str:
        word = match.group().lower()
        if word in ("one", "half") and not _counts(text, match):
            return match.group()
        if match["half"]:
            return "1/2"
        if match["big"]:
            count = _VALUES.get(match["hundreds"].lower(), 1)
            return str(count * SCALES[match["big"].lower()] + (_up_to_99(match["rest"]) if match["rest"] else 0))
        if match["hundred"]:
            return "100"
        return str(_up_to_99(match["small"] or match["plain"]))

    return _WORDS.sub(digits, text)


def words_beside_digits(text: str) -> str:
    """Number words that calculate with a numeral ("5 plus two") or take its place ("5, no, six") as digits.

    "One" is a pronoun wherever it may be: "5 dogs and one of them is red".
    """

    def digits(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - 40) : match.start()]
        beside = _BEHIND_NUMERAL.search(before) or _BEFORE_NUMERAL.match(text, match.end())
        instead = _BEHIND_TURN.search(before) and _ENDS_SENTENCE.match(text, match.end())
        counts = bool(beside or instead or _BEHIND_COUNTED.search(before))
        if match.group().lower() == "one":
            counts = bool(beside) and _counts(text, match)
        return words_to_digits(match.group()) if counts and not match["half"] else match.group()

    return _WORDS.sub(digits, text)


def _counts(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 12) : match.start()]
    return not _PRONOUN_BEFORE.search(before) and not _PRONOUN_AFTER.match(text, match.end())


def _up_to_99(words: str) -> int:
    return sum(_VALUES[word] for word in re.split(r"[\s-]", words.lower()))
