"""What every rule begins with: the text without its wrapping, and the part of it that states the answer.

An answer may be 100,000 characters of anything. Its last `MAX_CHARACTERS` decide, so that no pattern runs away.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from structdecode.matching.withdrawn import ALTERNATIVE, EARLIER_LEAD, RETRACTION, takes_back, without_superseded

MAX_CHARACTERS = 8000

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2018\u2019\u02bc\u2032`\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u2033", '"'),
        "\u2044": "/",
        "\u3002": ". ",
        "\u3001": ", ",
    }
)
_THOUSANDS = re.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d))")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUPERSCRIPT_SIGN = re.compile(r"(?<![\w)\]}⁰¹²³⁴⁵⁶⁷⁸⁹])[⁺⁻](?=\d)(?![⁰¹²³⁴⁵⁶⁷⁸⁹])")
_FRACTION = re.compile(r"(\d?)([¼-¾⅐-⅞↉])")
_CONCLUSION = re.compile(r"<(conclusion|answer)>", re.IGNORECASE)
_BLANKS = re.compile(r"[^\S\n]{2,}")
_EMPHASIS = re.compile(r"\*\*|__|(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])")
_BLOCK = re.compile(r"(?m)^[ \t]*(?:#{1,3}(?!#)[ \t]*|[*+][ \t]+|- +(?=[^\d\s]))")

_SIGNS = [
    ("≠", re.compile(r"(?<![\w)\]}!])!=+|=/=|<>|\\neq?(?![a-zA-Z])|\\not\s*=")),
    ("¬", re.compile(r"(?<![^\s(\[])!(?=[\w(])|\\(?:lnot|neg)(?![a-zA-Z])\s*")),
    (
        "→",
        re.compile(
            r"(?<![-<])-{1,3}>|(?<![<=])(?<!\b\w)(?<!\b\w\s)={1,2}>|[⇒⟶⟹➔➜]|\\(?:to|[lL]ongrightarrow|[rR]ightarrow|implies)(?![a-zA-Z])"
        ),
    ),
]
"""One spelling for each of is-not, not, and leads-to. A "!" behind a number is a factorial, "x => 5" may be a bound."""
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}\\]*)\}")

_OTHER_LEADS = (
    r"(?:正确|正確|最终|最終|参考)?(?:答案|选项|選項)\s*(?:应该|應該|应|應)?(?:[是为為选選]|[:=])\s*:?(?:选项|選項|选|選)?\s?|答案\s?(?=[A-Z]\b)"
    r"|(?:故|因此|所以|应|應|本题|本題|我)?(?:选择|選擇|选|選)(?:项|項)?(?:为|為|是)?\s?:?\s?(?=[(A-Z])"
    r"|(?:正解|正しい答え|最終的な答え|答え|解答|回答)\s?(?:は|:|=)\s?:?|(?:정답|답|답변)\s?(?:은|는|:|=)\s?:?"
    r"|\b(?:die\s|eine\s)?(?:richtige\s|korrekte\s|endgültige\s)?(?:antwort|lösung|option)(?:\slautet|\sist|\s?:)(?:\s?:)?"
    r"|\b(?:la\s)?(?:bonne\s|meilleure\s)?r[ée]ponse(?:\s(?:correcte|finale|exacte|juste))?(?:\sest|\s?:)(?:\s(?:la|l'option)\b)?(?:\s?:)?"
    r"|\b(?:la\s|a\s)?(?:respuesta|resposta|risposta)(?:\s(?:correcta|final|correta|corretta|finale|certa|giusta|esatta))?(?:\s(?:es|é|è)(?!\w)|\s?:)"
    r"(?:\s(?:la|a)\b)?(?:\s?:)?|\b(?:правильный\s|верный\s)?(?:ответ|вариант)(?:\s?[:=]|\s?-(?=\s)|\s(?=[A-Z\u0410-\u042f]\b))\s?"
    r"|\b(?:la\s|a\s|l'|die\s)?(?:opción|opcion|alternativa|opção|opzione|option)(?:\s(?:correcta|correta|corretta|correcte))?(?:\s(?:es|é|è|est)(?!\w)|\s?:)(?:\s(?:la|a)\b)?"
    r"|選択肢\s?は?\s?(?=[A-Z]\b)|\bc'est\s(?:la\s)?(?=[A-Z]\b)|\bes\sla\s(?=[A-Z]\b)|\b(?:antwort|opción)\s(?=[A-Z]\b)"
    r"|\b(?:het\s)?(?:juiste\s)?antwoord(?:\sis|\s?:)|(?:\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0627\u0644\u062c\u0648\u0627\u0628)(?:\s\u0627\u0644\u0635\u062d\u064a\u062d\u0629)?(?:\s(?:\u0647\u064a|\u0647\u0648))?\s?:?"
)
"""How the benchmarks' other languages lead to an answer: Chinese, Japanese, Korean, German, French, Spanish,
Portuguese, Italian, Russian, Dutch, Arabic."""

_LEAD = re.compile(
    r"(?:\b(?:answer|conclusion)|\b(?:correct|right|best|final)\s(?:option|choice|result|value|response))"
    r"(?:\s(?:to|for|of)\s[^.\n:?!]{0,60}?)?"
    r"(?:\s?:|\s?=|\s?→|\s(?:is|are|was)\b(?!n't)|\s(?:would|should|must|has to)\sbe\b)(?:\s?:)?|####|" + _OTHER_LEADS,
    re.IGNORECASE,
)
_LISTED = re.compile(r"[\s$,;/.*]*(?:\b(?:or|and)\b)?[\s$*]*", re.IGNORECASE)
COPULA_BEHIND = re.compile(
    r"\s*(?:选项|選項|项正确|是正确的|が正解です|です|でした|である|だ|になります|입니다|이다|예요|이에요)(?=[\s.。]*$)"
)
_CLOSING = re.compile(
    r"(?:so|therefore|thus|hence|in conclusion|overall|finally|in summary|consequently)\b,?:?\s", re.IGNORECASE
)
_HYPOTHETICAL = re.compile(
    r"\b(?:if|whether|suppose|assum\w+|unless|not|never|doubt|wrong|incorrect|why|might|could|nobody|false|cannot|unclear|nicht|keine|pas|ne|non?|nao|não|falsche)\b|n't\b|不|别|如果|若|ない|아니",
    re.IGNORECASE,
)
_SUPPOSITION = re.compile(
    r"^\s*(?:if|suppose|assum(?:ing|e)|unless|pretend|imagine|i (?:wish|hope)|let \w be)\b[^,\n]*(?:,|$)", re.IGNORECASE
)
_DENIES = re.compile(r"\W*(?:no|not|none|never|false)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.,;:!?\n]|\bbut\b|\bso\b")
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]+(?=\s|$)|\n")
_REASON = re.compile(
    r"\s(?:because|since|given that|due to|as (?=the|it|there|we|i|this)|which (?=is|are|was|means))|,\s(?:as|so|which)\s"
)

NEGATION = re.compile(
    r"[≠¬]|\b(?:not|never|neither|nor|cannot|unlike|unequal|differ\w* from|disagree\w*|except|rather than|instead of|other than|rul\w+ out|eliminat\w+|exclud\w+"
    r"|i doubt|no|none of|hardly|without|less|lacks?|avoid|opposite of|(?:could|might|may) (?:\w+ )?be|(?:could|should|would|might|may) have been|wrong|incorrect|false|unlikely|no longer|than)\b|n't\b|\b(?:dont|doesnt|isnt|cant|wont|arent|wasnt)\b",
    re.IGNORECASE,
)
_DOUBTED_AFTER = re.compile(
    r"[\s\"')\]*]*(?:\(\s*(?:wrong|incorrect|false|no)\s*\)|[:→-]\s*(?:no|wrong|incorrect|false)\s*(?:[.,;\n]|$)"
    r"|was\s+(?:my|our)\s|is\s+(?:my|our)\s+(?:first|second|initial|original|earlier|old)\s|(?:is|was)\s+what\s+(?:they|people|some|i\s+(?:\w+\s+)?thought)\b"
    r"|(?:is|was|seems|looks|appears|sounds|would be)\s+(?:\w+\s+)?\w+,?\s+(?:but\s+(?:it\s+)?(?:isn't|is not|not|wrong|incorrect|no)|if)\b)",
    re.IGNORECASE,
)
_PARTLY = re.compile(r"\b(?:almost|nearly|partly|partially|half|somewhat|a bit)\s+$", re.IGNORECASE)
_ABOUT_ANSWER = re.compile(
    r"\b(?:answer|result|solution)\s+(?:starts?|begins?|ends?|contains?|includes|has|rhymes|comes?|lies|differs|precedes|follows|exceeds|rounds|(?:is|was)\s+(?:the\s+\w+\s+)?(?:after|before)|(?:is|was)\s+(?:next|close|related|similar|near)\s+to)\b"
    r"|\b(?:it|word|name|number)\s+(?:starts|begins|ends|rhymes) (?:with|in)\s*$",
    re.IGNORECASE,
)
"""The clause says something of the answer and does not give it: "the answer starts with A"."""
_ALL_BUT = re.compile(r"\b(?:anything|all|any|everything|everyone|anywhere) but\b[^.,;\n]{0,30}$", re.IGNORECASE)
_NEGATED_AFTER = re.compile(
    r"[\s\"')\]*]*(?:(?:is|are|was|were|would be|seems|looks|can be|must be|should be|cannot be|can't be|isn't|aren't|wasn't)\s)?"
    r"(?:\w+\s)?(?:not|wrong|incorrect|false|impossible|excluded|eliminated|discarded|dismissed|rejected|fails?\b|tempting|too (?:many|few|much|low|high)|an? (?:trap|decoy|distractor|mistake|error|joke|lie)\b|out\b(?! of)|(?:the )?least\b|ruled out|unlikely|cannot|isn't|aren't|wasn't"
    r"|doesn't|don't|can't|couldn't|wouldn't)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Segment:
    """The part of a text that decides.

    Attributes:
        led: whether the text itself says that this is its answer ("the answer is", a box).
    """

    text: str
    led: bool = False

    @property
    def statement(self) -> str:
        """A led answer without the reason behind it ("5 because 2 + 3 = 5"), another text without what it only asks."""
        if not self.led:
            return asserted(self.text)
        reason = _REASON.search(self.text)
        return self.text[: reason.start()] if reason else self.text


_AT_THE_ENDS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85"
"""What `str.strip` takes off, separators among the control characters included."""


def unify(text: str) -> str:
    """Unicode NFKC, one kind of minus and quote, superscripts as ``^2``, ``½`` as ``1/2``; nothing invisible."""
    text = _THOUSANDS.sub(",", text)
    text = _SUPERSCRIPT_SIGN.sub(lambda m: _SUPERSCRIPTS[m[0]], text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^" + "".join(_SUPERSCRIPTS[c] for c in m.group()), text)
    text = _FRACTION.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}" if m[1] else m[2], text)
    return unicodedata.normalize("NFKC", text).translate(_CHARACTERS)


def clean(text: str) -> str:
    """The answer as plain text: the last CONCLUSION (or answer) if it has such tags, without markdown."""
    text = _TEXT_COMMAND.sub(r"\1", unify(outer(text)).replace("'''", ""))
    for sign, spelling in _SIGNS:
        text = spelling.sub(sign, text)
    text = _BLOCK.sub("", _EMPHASIS.sub("", text))
    return text.strip(_AT_THE_ENDS + "'\"") if text.count("'") != 1 else text.strip()


def outer(text: str) -> str:
    """What a reader is meant to see: behind the last ``</think>``, inside the last CONCLUSION or answer tag."""
    text = text.rpartition("</think>")[2]
    if tags := list(_CONCLUSION.finditer(text)):
        opened = tags[-1]
        end = re.compile(f"</{opened[1]}>", re.IGNORECASE).search(text, opened.end())
        text = text[opened.end() : end.start() if end else None]
    text = _BLANKS.sub(" ", text)
    return text if len(text) <= MAX_CHARACTERS else text[-MAX_CHARACTERS:].partition(" ")[2] or text[-MAX_CHARACTERS:]


def boxes(text: str) -> Iterator[tuple[int, int, str]]:
    r"""Start, end and body of every ``\boxed{...}``, braces balanced."""
    end = 0
    while (start := text.find("\\boxed{", end)) >= 0:
        depth, end = 1, start + len("\\boxed{")
        body = end
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:
            return
        yield start, end, text[body : end - 1]


def segment(text: str, polar: bool = False) -> Segment:
    """What stands behind the last "the answer is" or in the last box, else all of the text.

    A lead that is asked, denied or supposed ("if the answer is B") is none. Where the text turns to another answer
    ("wait, ..."), what follows decides; where it ends by taking its answer back ("B. No."), nothing is stated.

    Args:
        polar: "No." at the end may be the answer itself, rather than take one back.
    """
    found = _boxed(text)
    for lead in reversed(list(_LEAD.finditer(text, found[0] if found else 0))):
        if (stated := _stated(text, lead)) is not None:
            found = (lead.start(), lead.end(), stated)
            break
    if found is None:
        return Segment("" if takes_back(text, polar) else text)
    retractions = list(RETRACTION.finditer(text, found[1]))
    if retractions and (rest := text[retractions[-1].end() :].strip()):
        return Segment(rest)
    stated = found[2].strip()
    if takes_back(text[found[0] :], bool(_DENIES.match(stated))):
        return Segment("", led=True)
    if (other := ALTERNATIVE.search(text, max(found[1], len(text) - 60))) is not None:
        stated = f"{_SENTENCE_END.split(stated)[0]} or {other['other'] or other['alone']}"
    return Segment(stated, led=True)


def before_boxes(text: str) -> Segment | None:
    """What the text itself calls its answer where a box stands behind that sentence; None where none does."""
    found = list(boxes(text))
    before = text[: found[0][0]] if found else ""
    for lead in reversed(list(_LEAD.finditer(before))):
        end = _SENTENCE_END.search(before, lead.end() + 1)
        if end is not None and (stated := _stated(before[: end.start()], lead)) is not None:
            return Segment(stated.strip(), led=True)
    return None


def _boxed(text: str) -> tuple[int, int, str] | None:
    """The last box; several different ones in a list count together, so that they contradict each other."""
    found = list(boxes(text))
    if not found:
        return None
    return found[-1][0], found[-1][1], _together(text, found)


def _together(text: str, found: list[tuple[int, int, str]]) -> str:
    """The last box and those that it is listed with ("or", a comma); whatever else stands between lets the last stand."""
    first = len(found) - 1
    while first and _LISTED.fullmatch(text, found[first - 1][1], found[first][0]):
        first -= 1
    return " or ".join(dict.fromkeys(body.strip() for _, _, body in found[first:]))


def _stated(text: str, lead: re.Match[str]) -> str | None:
    """The rest of the lead's line (or the next line, where that is empty), if it is a statement."""
    clause = text[max(0, lead.start() - 80) : lead.start()]
    clause = _CLAUSE_END.split(clause)[-1]
    if _HYPOTHETICAL.search(clause) or EARLIER_LEAD.search(clause):
        return None
    rest = text[lead.end() :].lstrip()
    line = rest.split("\n", 1)[0]
    sentence_end = _SENTENCE_END.search(line)
    if not line or (sentence_end and sentence_end.group().startswith("?")):
        return None
    inside = list(boxes(line))
    return _together(line, inside) if inside else COPULA_BEHIND.sub("", line)


def asserted(text: str) -> str:
    """Without questions, suppositions and earlier guesses: "Is it B?" and "If it is B, ..." say nothing about B."""
    kept, start = [], 0
    for end in [*_SENTENCE_END.finditer(text), None]:
        sentence = text[start : end.end() if end else None]
        start = end.end() if end else len(text)
        if not sentence.rstrip().endswith("?"):
            kept.append(without_superseded(_SUPPOSITION.sub("", sentence)))
    return "".join(kept).strip()


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def closing(text: str) -> str | None:
    """The last sentence, without its "so" or "therefore", if it draws a conclusion."""
    last = text.rstrip().rstrip(".!")
    start = max((m.end() for m in _SENTENCE_END.finditer(last)), default=0)
    sentence = last[start:].strip()
    mark = _CLOSING.match(sentence)
    return sentence[mark.end() :] if mark else None


def negates(before: str) -> bool:
    """Whether the last clause of a text denies what comes next, or only describes it."""
    clause = _CLAUSE_END.split(before)[-1]
    return bool(
        NEGATION.search(clause) or _ABOUT_ANSWER.search(clause) or _ALL_BUT.search(before) or _PARTLY.search(before)
    )


def negated(text: str, start: int, end: int) -> bool:
    """Whether what stands at ``start:end`` is denied in its own clause."""
    behind = (pattern.match(text, end, min(len(text), end + 60)) for pattern in (_NEGATED_AFTER, _DOUBTED_AFTER))
    return negates(text[max(0, start - 80) : start]) or any(behind)
