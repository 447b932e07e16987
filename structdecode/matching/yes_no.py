"""Yes or no, true or false. An answer that says both is wrong."""

from __future__ import annotations

import re

from structdecode.matching.texts import clean, closing, negates, segment, sentences
from structdecode.matching.types import Match, Question

POLARITY = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_SPOKEN = {"yeah": "yes", "yep": "yes", "nope": "no"}

_FIRST = re.compile(r"[\s\"'(\[]*(yes|yeah|yep|no|nope|true|false)\b(?!-)", re.IGNORECASE)
_NOT_AN_ANSWER = re.compile(
    r"no\s+(?:doubt|question|problem|wonder|one|more|less|longer|matter|idea|other|such|single|(?!this|is|its|was|does|has|as)\w+s\b)"
    r"|(?:true|false)\s+(?:positive|negative|north|color|colour|to|or|and)|(?:yes|no)\s*(?:/|or)\s*(?:yes|no)",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"\b(?:yes|true|no|false)\s*(?:/|→|≠|\bor\b|\band\b|,\s*and\b|\bbut also\b)\s*(?:yes|true|no|false)\b",
    re.IGNORECASE,
)
_ALONE = re.compile(
    r"(?:^|[.,;:!?\n\"'(-]\s*|\b(?:so|is|say|answer|therefore|thus|hence|think|be|actually|wait|mean|but)\s+|'s\s+)(yes|no|true|false)"
    r"(?=\s*(?:[.,;:!?\n\"')]|$))",
    re.IGNORECASE,
)
_JUDGEMENT = re.compile(
    r"(?:^\W*|\b(?:is|was|are|were|be|seems|sounds)\s+|'s\s+|(?P<contracted>\b(?:isn't|wasn't|aren't|can't be|cannot be)\s+))"
    r"(?:(?P<negation>not|never|hardly|far from|anything but)\s+)?(?:(?!only\b)(?:\w+ly|indeed|quite|also|at all)\s+)?"
    r"(?P<word>true|correct|right|accurate|false|incorrect|untrue|wrong|inaccurate|yes|no)"
    r"(?=\s*(?:[.,;:!?)\"']|$|because\b|since\b|as\b|given\b))",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\"')]*\s+(?:isn't\b|was my\b|wasn't\b|(?:is|was|would be)\s+(?:\w+ly\s+)?(?:not|wrong|incorrect|false|(?:an?|the) (?:wrong|lie))\b)",
    re.IGNORECASE,
)
_UNCERTAIN = re.compile(
    r"\b(?:might|could|may|partly|partially|half|possibly|maybe|perhaps|mostly|if|would be|would say|rarely|seldom|wrongly|untrue to|opposite|reverse|contrary|(?:used|claimed|said|believed|supposed|fails) to be|too \w+ to be|nothing is|sadly|unfortunately)\b",
    re.IGNORECASE,
)
_BEHIND_IT = r"[\s.,;:!?…-]*(?:(?:but|and|though)\s+)?"
_IT = r"(?:there|it|that|this|he|she|they|we|i|one)"
_TO_BE = r"(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would)"
_CONTRARY = {
    "yes": re.compile(
        rf"{_BEHIND_IT}(?:(?:that|this|which)(?:'s|\s+is|\s+was|\s+would be)\s+(?:\w+ly\s+)?"
        r"(?:incorrect|wrong|false|untrue|inaccurate|not\s+(?:true|correct|right|accurate))\b"
        rf"|i (?:don't|do not) think so|i doubt (?:it|that)|{_IT}\s+{_TO_BE}\s+(?:no such \w+|zero)"
        rf"|(?:{_IT}(?:'s|'re|\s+{_TO_BE})\s+(?:not|none|never|nothing)|{_IT}\s+\w+n't|{_TO_BE}n't|(?:nobody|no one|nothing|none)(?:\s+{_TO_BE})?|not|never|hardly|untrue|wrong|incorrect|nope|nah)"
        r"(?:\s+(?:any|one|there|really|at all|so|quite|exactly|true|visible|present))*\s*(?:[.,;!\n]|$))",
        re.IGNORECASE,
    ),
    "no": re.compile(
        rf"{_BEHIND_IT}(?:th(?:at|is)(?:'s|\s+is)\s+(?:\w+ly\s+)?(?:correct|right|true|accurate)|(?:(?:yes|of course|indeed|actually),?\s+)?{_IT}\s+{_TO_BE})"
        r"(?:\s+(?:really|indeed))?\s*(?:[.,;!\n]|$)",
        re.IGNORECASE,
    ),
}
"""What behind a yes denies it, and behind a no affirms it, as a clause of its own: "Yes, there is none", "No, it is"."""
_OPENING = re.compile(
    r"\W*(?:(?P<no>i\s+(?:disagree|object|do not agree|don't agree|deny it)|far from it|on the contrary|not so|wrong|incorrect|nah)"
    r"|(?P<yes>i agree|right|correct|indeed|certainly|of course|sure))\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"[\s,]*(?:but\s+)?(?:only\s+)?(?:(?:if|unless|when)\b|(?:or\s+)?(?:maybe|perhaps|possibly|partly|partially|sort of|kind of|in a way|(?<=or )no)(?:\s+not?)?\s*(?:[.,;!\n]|$))",
    re.IGNORECASE,
)
_DENYING = re.compile(r"\b(?:nobody|no one|denie?s|deny)\b", re.IGNORECASE)
_AFFIRMING = {"true", "correct", "right", "accurate", "yes"}


def match(text: str, question: Question) -> Match:
    """What the answer begins with, else the judgement that it passes ("that is not correct")."""
    found, rule = verdict(text)
    if found is None:
        return Match(False, rule, "")
    references = {POLARITY.get(a.strip(" .\"'").lower()) for a in question.answers}
    return Match(found in references, rule, found)


def verdict(text: str) -> tuple[str | None, str]:
    """``yes`` or ``no`` for a whole answer, and the rule; None where it says neither or both."""
    text = clean(text)
    part = segment(text, polar=True)
    found, rule = polarity(part.statement, part.led)
    if found is None and not part.led and (last := closing(text)) is not None:
        found, rule = polarity(last, led=True)
    return found, rule


def polarity(text: str, led: bool = False) -> tuple[str | None, str]:
    """``yes`` or ``no`` and the rule; None where the text says neither or both."""
    if _BOTH.search(text):
        return None, "yes-no:contradiction"
    first = _FIRST.match(text)
    said = None if first is None else _SPOKEN.get(first[1].lower()) or POLARITY[first[1].lower()]
    if first is not None and (_DENIED.match(text, first.end()) or _CONTRARY[said or ""].match(text, first.end())):
        return None, "yes-no:contradiction"
    if first is not None and _CONDITION.match(text, first.end()):
        return None, "yes-no:uncertain"
    if first is not None and not _NOT_AN_ANSWER.match(text, first.start(1)):
        rest = _alone(text, first.end())
        rest |= {"no"} if said == "yes" and re.match(r"[\s,]*(?:and|but)\s+no\b", text[first.end() :]) else set()
        return (said, "yes-no:first") if rest <= {said} else (None, "yes-no:contradiction")
    if _UNCERTAIN.search(text):
        return None, "yes-no:uncertain"
    alone = _alone(text)
    judged = _judged(text) if led or len(sentences(text)) == 1 else set()
    opening = _OPENING.match(text)
    if alone and opening is not None and alone != {opening.lastgroup}:
        return None, "yes-no:contradiction"
    verdicts = alone or judged
    if len(verdicts) > 1 or (alone and judged and alone != judged and led):
        return None, "yes-no:contradiction"
    if not verdicts:
        return None, "none"
    return next(iter(verdicts)), "yes-no:word" if alone else "yes-no:judgement"


def _alone(text: str, start: int = 0) -> set[str]:
    found = [m for m in _ALONE.finditer(text, start) if not negates(text[max(start, m.start(1) - 80) : m.start(1)])]
    return {POLARITY[m[1].lower()] for m in found}


def _judged(text: str) -> set[str]:
    """Each judgement's polarity: "not correct" is no, "not wrong" is yes."""
    verdicts = set()
    for found in _JUDGEMENT.finditer(text):
        before = text[max(0, found.start() - 80) : found.start()]
        denied = bool(negates(before)) or bool(_DENYING.search(before))
        negations = (found["negation"] is not None) + (found["contracted"] is not None) + denied
        verdicts.add("yes" if (found["word"].lower() in _AFFIRMING) == (negations % 2 == 0) else "no")
    return verdicts
