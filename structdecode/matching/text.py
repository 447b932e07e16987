"""Free text: equal after normalisation, and no looser. A plural, a sign or a unit more is another answer."""

from __future__ import annotations

import re

from structdecode.matching.texts import Segment, clean, segment, sentences, unify
from structdecode.matching.types import Match, Question

_ARTICLE = re.compile(r"\b(?:[Tt]he|an?)\s+(?=[\"'(]?\w)")
_FIRST_ARTICLE = re.compile(r"^(?:A|An|THE)\s+(?=[\"'(]?\w)")
_ACRONYM = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_JOINING = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
_PUNCTUATION = re.compile(
    r"(?<!\d)[.,:](?!\d)|(?<=\d)[.,:](?!\d)|(?<!\d)[,:](?=\d)|[;!?\"`()\[\]{}*_]|(?<!\w)'|'(?!\w)"
)
_ABBREVIATED = re.compile(r"\b(?:St|Mr|Mrs|Ms|Dr|Mt|Ft|Jr|Sr|No|vs|Prof|[A-Z])$")
_FRAME = re.compile(
    r"(?:(?:so|therefore|thus|hence),?\s)?(?:it|this|that|he|she|they|these|there)(?:\s(?:is|are|was|were)|'s|'re)\s(?=\w)",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """NFKC, case, articles, white space and the punctuation of sentences removed; C++, -5, 5% and "not" stay.

    >>> normalise("The “Red-brick” House.")
    'red brick house'
    >>> normalise("hepatitis A virus"), normalise("3.5"), normalise("U.S.A.")
    ('hepatitis a virus', '3.5', 'usa')
    """
    text = unify(text)
    text = _ACRONYM.sub(lambda m: m.group().replace(".", ""), text)
    text = _ARTICLE.sub("", _FIRST_ARTICLE.sub("", text.strip()))
    text = _PUNCTUATION.sub(" ", _JOINING.sub(" ", text))
    return " ".join(text.casefold().split())


def match(text: str, question: Question) -> Match:
    """The whole answer, or what stands behind "the answer is", equals a reference."""
    text = clean(text)
    part = segment(text, polar=True)
    references = {normalise(reference) for reference in question.answers} - {""}
    whole = normalise(text)
    if whole in references:
        return Match(True, "text:exact", whole)
    readings = _readings(part)
    for candidate, rule in readings:
        if normalise(candidate) in references:
            return Match(True, rule, normalise(candidate))
    extracted = normalise(readings[-1][0])
    if extracted and extracted in {reading(reference) for reference in question.answers}:
        return Match(True, readings[-1][1], extracted)
    return Match(False, "text:different" if extracted else "none", extracted)


def reading(text: str) -> str:
    """The answer itself, normalised: without what leads to it and what frames it."""
    return normalise(_readings(segment(clean(text), polar=True))[-1][0])


_TAKEN_BACK = re.compile(
    r"\W*(?:wrong|incorrect|false|not|no|nope|nah|or|but|however|alternatively|otherwise|sorry|oops|(?:i'm\s+)?(?:just\s+)?(?:kidding|joking)|never ?mind|(?:scrap|forget|ignore) that|hmm+|i mean|actually|wait"
    r"|(?:but\s+)?(?:that|this|it)(?:'s|\s+is|\s+was|\s+would be|\s+may be)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|an?\s+(?:lie|joke|mistake)|not))\b",
    re.IGNORECASE,
)
"""How a sentence begins that takes back what the one before it said."""
_FRAGMENT = re.compile(r"(?:an?\s+|the\s+)?(?!yes|indeed|done|thanks|exactly)[\w'-]+(?<!ly)", re.IGNORECASE)
"""A noun by itself, which may be another answer: "The answer is dog. Cat."."""


def _readings(part: Segment) -> list[tuple[str, str]]:
    """A led answer may go on with another sentence; an unled one may only be framed ("It is a dog.")."""
    readings = [(part.text, "text:led" if part.led else "text:exact")]
    if part.led and (parts := sentences(part.statement)):
        readings += [(part.statement, "text:led")]
        taken_back = len(parts) > 1 and (_TAKEN_BACK.match(parts[1]) or _FRAGMENT.fullmatch(parts[1]))
        if not _ABBREVIATED.search(parts[0]) and not taken_back:
            readings += [(parts[0], "text:led")]
    framed = _FRAME.match(readings[-1][0])
    if framed:
        readings.append((readings[-1][0][framed.end() :], "text:framed"))
    return readings
