"""Answer matching that says which rule decided. A false "correct" is worse than a false "wrong", so doubt is wrong.

>>> from structdecode.matching.types import Question
>>> question = Question("1", "How far is it?", ("2.5 km",))
>>> match("It is 2,500 metres.", question)
Match(correct=True, rule='number:unit', extracted='2.5 km', status='answered')
>>> match("I can't help with that.", question).status
'refused'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from structdecode.matching import choice, latex, numbers, sets, yes_no
from structdecode.matching import text as free_text
from structdecode.matching.declined import declined, undetermined
from structdecode.matching.judge import LLMJudge
from structdecode.matching.keys import answer_key
from structdecode.matching.quantities import whole_quantity
from structdecode.matching.texts import clean, unify
from structdecode.matching.types import SEVERAL_LETTERS, Kind, Match, Question

__all__ = ["LLMJudge", "Match", "answer_key", "kind_of", "match"]

_RULES: Mapping[Kind, Callable[[str, Question], Match]] = {
    "choice": choice.match,
    "number": numbers.match,
    "yes-no": yes_no.match,
    "set": sets.match,
    "latex": latex.match,
    "text": free_text.match,
}
_LETTER = re.compile(r"\(?[A-Za-z]\)?[.:]?")
_MATHS = re.compile(r"\\[a-zA-Z({\[]|\$|\^|(?<=[\w)])\s*=\s*(?=[\w(-])")


def match(text: str, question: Question) -> Match:
    """Whether a model's answer is right.

    Pure: the same text and question give the same match, in any thread. Never raises on any text.

    Args:
        text: the answer, with or without reasoning around it; after the last ``<CONCLUSION>`` if it has one.
        question: its references. Any one of them is enough.

    Raises:
        MissingExtraError: a formula has to be compared and math-verify is not installed.
    """
    kind = kind_of(question)
    bare = clean(text)
    if not bare:
        return Match(False, "none", "", "empty")
    ruled = _RULES[kind](text, question)
    if not ruled.correct and text.strip() in {answer.strip() for answer in question.answers}:
        return Match(True, f"{kind}:identical", ruled.extracted or free_text.normalise(text) or text.strip())
    if _is_listed(bare, question) or (_may_be_open(question, kind) and undetermined(bare)):
        return ruled
    given_up = declined(bare)
    if given_up is None:
        return ruled
    if undetermined(bare) and any(undetermined(answer) for answer in question.answers) and kind == "text":
        return Match(True, "text:undetermined", free_text.normalise(text))
    if given_up.rest:
        ruled = _RULES[kind](given_up.rest, question)
        if ruled.rule != "none" and (ruled.correct or kind != "text"):
            return ruled
    return Match(False, "none", "", given_up.status)


def kind_of(question: Question) -> Kind:
    """The question's kind, else decided from its options and answers; ``text`` where nothing else fits them all."""
    if question.kind is not None:
        return question.kind
    answers = [answer.strip() for answer in question.answers if answer.strip()]
    if question.options:
        several = all(SEVERAL_LETTERS.fullmatch(answer) for answer in answers) and answers
        return "set" if several else "choice"
    if not answers:
        return "text"
    if all(answer.strip(" .").lower() in yes_no.POLARITY for answer in answers):
        return "yes-no"
    if all(_is_number(answer) for answer in answers):
        return "number"
    if any(
        _MATHS.search(answer) or re.fullmatch(r"\([^()]*,[^()]*\)|[(\[][^,]*,[^,]*[)\]]", answer) for answer in answers
    ):
        return "latex"
    if all(_is_list(answer) for answer in answers):
        return "set"
    return "text"


def _is_number(answer: str) -> bool:
    quantity = whole_quantity(unify(answer))
    return quantity is not None and not quantity.noun


def _is_list(answer: str) -> bool:
    """Braces or brackets around it, at least three short elements, or numbers only: "Paris, France" is one place."""
    parts = [part.strip() for part in re.split(r"[,;]", answer.strip("[]{}"))]
    if len(parts) < 2 or not all(parts):
        return False
    bracketed = re.fullmatch(r"[\[{].*[\]}]", answer) is not None
    short = len(parts) > 2 and all(len(part.split()) <= 3 for part in parts)
    return bracketed or short or all(_is_number(part) for part in parts)


def _may_be_open(question: Question, kind: Kind) -> bool:
    """Whether "cannot be determined" is one of the options."""
    return kind == "choice" and any(undetermined(option) for option in question.options.values())


def _is_listed(bare: str, question: Question) -> bool:
    """Whether the text is an option or a reference word for word ("Cannot be determined")."""
    wording = free_text.normalise(bare)
    return wording in {free_text.normalise(known) for known in (*question.answers, *question.options.values())}
