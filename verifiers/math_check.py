"""Do the sums in a text come out?"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Literal

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.matching.symbolic import compare
from structdecode.matching.texts import MAX_CHARACTERS, unify

_NUMBER = r"(?:\d++(?:\.\d++)?+|\.\d++)"
_TERM = rf"(?:[-(] ?)*+{_NUMBER}(?: ?\))*+"
_SIDE = rf"{_TERM}(?: ?[-+*/^] ?{_TERM})*+"
_EQUATION = re.compile(rf"(?<![\w.:()^<>\u221a+*/-]){_SIDE}(?: ?[=≈] ?{_SIDE})++(?! ?[-+*/^%!(] ?[\w(])(?![\w%!])")
"""Numbers, brackets and operations on both sides, not in the middle of a number, a name or a call, and not cut off behind.
Possessive, so that no text of many signs takes long."""
_OPERATION = re.compile(r"[\d)] ?[-+*/^]")
_INSIDE = re.compile(r"[-+*/^<>] ?$|\b(?:of|by|times|plus|minus|over) $", re.IGNORECASE)
"""How the text before an equation ends, where its beginning belongs to a longer expression."""
_OPERAND = re.compile(r"[\d)] ?$|\b\w ?$")
"""The same for an equation that begins with a minus."""
_RUNAWAY = re.compile(r"\^ ?[-(]* ?[\d.]+[ )]*\^|\^ ?[-(]* ?\d{4}|\^ ?\([^)]*[*^]|\d{50}")
"""A power of a power, a power of thousands or of a product, a number of fifty digits."""
_PLAIN = re.compile(r"-? ?\d*\.?\d*")
_SPELLINGS = [
    (re.compile(r"\\[dt]?frac ?\{([^{}]*)\} ?\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\^ ?\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"\\(?:left|right)(?![a-z])|\\[()\[\],;! ]|[$\u20ac\u00a3{}]"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])|\u00f7"), "/"),
    (re.compile(r"\\approx(?![a-z])"), "\u2248"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<=[\d)])\s?[x\u00d7\u00b7]\s?(?=[\d(])"), " * "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"[^\S\n]+"), " "),
]
"""One spelling for each sign: LaTeX's and others' as plain text, no separators in numbers, no currencies, single blanks."""


@dataclass(frozen=True)
class MathCheck:
    """The share of the newest stage's equations between numbers that hold, such as ``3 + 4 = 7``. Asks the model nothing.

    A chain (``2 * 3 + 1 = 6 + 1 = 7``) is an equation at each sign. Equality is math-verify's (``structdecode[eval]``), in
    a process of its own that is ended where an expression keeps it busy; such an equation, and one with a power that no
    computer should raise, counts for nothing. What has letters, units or percent signs in it is passed over, as are
    statements without arithmetic (``7 = 7``). A number with decimals, and any behind ``≈``, may be rounded where it ends.

    Attributes:
        nothing: where there is nothing to check, no score or a ``neutral`` 0.5.
        most: equations that are checked, the last ones.
    """

    nothing: Literal["unscored", "neutral"] = "unscored"
    most: int = 32

    def __post_init__(self) -> None:
        check_settings(self)
        if self.most < 1:
            raise ConfigError(f"math: most must be at least 1, not {self.most}")
        if find_spec("math_verify") is None:
            raise MissingExtraError("math-verify", "eval")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return await asyncio.to_thread(lambda: [self._score(candidate) for candidate in candidates])

    def _score(self, candidate: Candidate) -> Score:
        found = list(equations(candidate.stages.get(candidate.last_stage, "")))[-self.most :]
        verdicts = [(f"{left} {sign} {right}", holds(left, sign, right)) for left, sign, right in found]
        known = [(text, verdict) for text, verdict in verdicts if verdict is not None]
        details = {"equations": [{"text": text, "holds": verdict} for text, verdict in verdicts]}
        if not known:
            reason = "no arithmetic to check"
            return Score.unscored(reason) if self.nothing == "unscored" else Score(0.5, reason, details, resolution=0.0)
        wrong = [text for text, verdict in known if not verdict]
        reason = f"wrong: {'; '.join(wrong)}" if wrong else "all of it holds"
        return Score(1 - len(wrong) / len(known), reason, details, resolution=0.0)


def equations(text: str) -> Iterator[tuple[str, str, str]]:
    """Each equation between numbers as (left, ``=`` or ``≈``, right), with arithmetic on at least one side.

    >>> list(equations("So 3 + 4 = 7, and 2 * 7 = 14 = 15 - 1. Then x + 3 = 9."))
    [('3 + 4', '=', '7'), ('2 * 7', '=', '14'), ('14', '=', '15 - 1')]
    """
    plain = unify(text[-MAX_CHARACTERS:])
    for pattern, instead in _SPELLINGS:
        plain = pattern.sub(instead, plain)
    for match in _EQUATION.finditer(plain):
        before = plain[: match.start()]
        if _INSIDE.search(before) or (match[0].startswith("-") and _OPERAND.search(before)):
            continue  # the end of a longer expression
        parts = re.split(r" ?([=≈]) ?", match[0])
        sides = [_balanced(side) for side in parts[::2]]
        for (left, right), sign in zip(pairwise(sides), parts[1::2], strict=True):
            closed = all(side.count("(") == side.count(")") for side in (left, right))
            if closed and (_OPERATION.search(left) or _OPERATION.search(right)):
                yield left, sign, right


def _balanced(side: str) -> str:
    """Without brackets that enclose more than this side: ``(3 + 4 = 7)``."""
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:].strip()
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1].strip()
    return side


def holds(left: str, sign: str, right: str) -> bool | None:
    """Whether two sides are equal, or one of them is the other as it is rounded; None where that cannot be told."""
    if _RUNAWAY.search(f"{left} {sign} {right}"):
        return None
    found = compare(_latex(left), _latex(right))
    if found.equal or found.values is None:
        return found.equal
    difference = abs(found.values[0] - found.values[1])
    return any(difference <= 0.5 * place * (1 + 1e-9) for side in (left, right) if (place := _last_place(side, sign)))


def _latex(side: str) -> str:
    powers = re.sub(r"\^ ?(?:\(([^()]*)\)|(-?\d+))", r"^{\1\2}", side)
    return powers.replace("*", r"\times ")


def _last_place(side: str, sign: str) -> float:
    """The worth of a number's last digit, where it may have been rounded there; 0 where it may not, or is no number."""
    if not _PLAIN.fullmatch(side):
        return 0.0
    _, point, decimals = side.partition(".")
    if point:
        return 10.0 ** -len(decimals)
    return 10.0 ** (len(side) - len(side.rstrip("0"))) if sign == "≈" else 0.0
