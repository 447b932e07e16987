"""Which answers are the same answer: one equivalence for votes, rewards and matching.

It is an equivalence relation by construction: every answer has a key, and equal keys are what "same" means. Nothing
is compared pairwise and no tolerance is used, for closeness is not transitive. Two answers with one key get one
verdict from `match`, except where a reference without a unit meets a question that names none: there the number
counts as it is written, while 12 cm and 120 mm stay one answer.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import cast, get_args

from structdecode.core.types import Prompt
from structdecode.matching import choice, latex, numbers, sets, yes_no
from structdecode.matching import text as free_text
from structdecode.matching.declined import declined, undetermined
from structdecode.matching.exact import evaluate
from structdecode.matching.quantities import Quantity, amount
from structdecode.matching.texts import clean, segment
from structdecode.matching.types import Kind

_FEW_WORDS = 4
_HOW_MANY = re.compile(r"\bhow many\s+((?:[\w-]+\s+){0,2}[\w-]+)", re.IGNORECASE)
_MATHS = re.compile(r"\\[a-zA-Z]|[\^√∛∜π$]|\d[a-z]\b|[a-z]\s?[-+*/]\s?\w")


def answer_key(
    text: str, kind: Kind | None = None, options: Mapping[str, str] | None = None, question: str = ""
) -> Hashable | None:
    r"""The canonical form of the answer that a text gives; equal answers have equal keys.

    Needs no extra: formulas are compared by value, without a computer algebra system.

    Args:
        kind: what form the question's answers have; None where that is unknown: then the text decides.
        options: letter -> text, of a multiple-choice question.
        question: its text: "5 dogs" answers "How many dogs ...?" like "5" does.

    Returns:
        None where the text gives no answer: it is empty, declines, or names several.

    >>> answer_key("1/2") == answer_key("0.5") == answer_key(r"\frac{1}{2}")
    True
    >>> answer_key("12 cm") == answer_key("120 mm"), answer_key("5 percent") == answer_key("5 apples")
    (True, False)
    """
    kind = kind or ("choice" if options else None)
    bare = clean(text)
    if not bare:
        return None
    known = dict(options or {})
    open_option = kind == "choice" and any(undetermined(option) for option in known.values())
    listed = free_text.normalise(bare) in {free_text.normalise(option) for option in known.values()}
    given_up = None if listed or (open_option and undetermined(bare)) else declined(bare)
    if given_up is not None:
        if kind == "text" and undetermined(bare):
            return ("undetermined",)
        text = given_up.rest
        if not text:
            return None
    return _keyed(text, kind, known, question)


def prompt_key(text: str, prompt: Prompt) -> Hashable | None:
    """The key of a text that answers a prompt, told the prompt's ``answer_kind`` and ``options``; see `answer_key`."""
    options = {chr(ord("A") + i): option for i, option in enumerate(prompt.options)}
    kind = prompt.answer_kind if prompt.answer_kind in get_args(Kind) else None
    return answer_key(text, cast("Kind | None", kind), options, prompt.question)


def _keyed(text: str, kind: Kind | None, options: Mapping[str, str], question: str) -> Hashable | None:
    if kind == "choice":
        letter, _ = choice.find(clean(text), {name.strip().upper(): option for name, option in options.items()})
        return None if letter is None else ("choice", letter)
    if kind == "yes-no":
        verdict, _ = yes_no.verdict(text)
        return None if verdict is None else ("yes-no", verdict)
    if kind == "number":
        return _number(text, question)
    if kind == "set":
        readings = frozenset(sets.readings(text, frozenset(name.strip().upper() for name in options)))
        return ("set", readings) if readings else None
    if kind == "latex":
        return _formula(text)
    if kind == "text":
        return _text(text)
    return _unknown(text, question)


def _number(text: str, question: str) -> Hashable | None:
    found, _, statement = numbers.read(text, question)
    return None if found is None else _value(found, numbers.noun(found, statement), question)


def _value(found: Quantity, noun: str, question: str) -> Hashable:
    base = found.unit.base if found.unit else ""
    asked = {word.lower().rstrip("s") for match in _HOW_MANY.finditer(question) for word in match[1].split()}
    counted = "" if base or noun.rstrip("s") in asked else noun.rstrip("s")
    return ("number", found.exact, base, counted)


def _formula(text: str) -> Hashable | None:
    answer = latex.formula(text)
    written = latex.as_written(answer)
    if not written:
        return None
    name = latex.assigned(answer)
    if (found := amount(answer)) is not None and not found.noun:
        return (*_value(found, "", ""), name)  # type: ignore[misc]
    formula = evaluate(answer)
    return ("written", written) if formula is None else ("formula", formula.value, name)


def _text(text: str) -> Hashable | None:
    reading = free_text.reading(text)
    return ("text", reading) if reading else None


def _unknown(text: str, question: str) -> Hashable | None:
    """The kind is unknown: a letter, a yes or no, a value or a formula where that is all that is stated, else words."""
    part = segment(clean(text), polar=True)
    stated = part.statement.strip()
    if letter := choice.whole_letter(stated):
        return ("choice", letter)
    if polarity := yes_no.POLARITY.get(stated.strip(" .,!\"'").lower()):
        return ("yes-no", polarity)
    if (found := amount(stated)) is not None:
        return _value(found, found.noun.split()[0].lower() if found.noun else "", question)
    answer = latex.formula(text)
    if _MATHS.search(stated) and (formula := evaluate(answer)) is not None:
        return ("formula", formula.value)
    if part.led or len(stated.split()) > _FEW_WORDS:
        found, _, statement = numbers.read(text, question)
        if found is not None:
            return _value(found, numbers.noun(found, statement), question)
    return _text(text)
