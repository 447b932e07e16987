"""A formula in LaTeX or plain notation as a tree. What is not understood is an error, never left out."""

from __future__ import annotations

import re
from fractions import Fraction

Node = tuple[object, ...]
"""``(operation, *parts)``; leaves are ``("number", Fraction)``, ``("name", str)`` and ``("constant", "pi" or "e")``."""

MAX_CHARACTERS = 400

_REWRITES = [
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[,;:!>]|\\ |\\quad|\\qquad|~"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:mathrm|text|operatorname|mathit|rm)\s*\{\s*(e|pi|sin|cos|tan|log|ln|exp|sqrt)\s*\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[\u00d7·⋅\u2217]|\*"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![a-zA-Z])"), "|"),
    (re.compile(r"√"), r"\\sqrt "),
    (re.compile(r"∛"), r"\\sqrt[3] "),
    (re.compile(r"∜"), r"\\sqrt[4] "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"\\(?=(?:pi|sqrt|frac|sin|cos|tan|log|ln|exp)(?![a-zA-Z]))"), " \\\\"),
    (re.compile(r"(?<![\\a-zA-Z])(pi|sqrt|sin|cos|tan|log|ln|exp)(?![a-zA-Z])"), r" \\\1 "),
    (re.compile(r"\\[\[\]()$]|\$"), " "),
    (re.compile(r"(?<=\d)(?:\{,\}|,)(?=\d{3}(?!\d))"), ""),
]  # fmt: skip
_TRIGONOMETRY = re.compile(r"(?<![a-z])(?:sin|cos|tan)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:°|\^\s*\{?\s*\\circ\s*\}?)")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|(?P<command>\\[a-zA-Z]+)|(?P<name>[a-zA-Z]+(?:_(?:\{\w+\}|\w))?|[\u03b1-\u03c9])|(?P<sign>[-+*/^!|(){}\[\]_]))"
)
_GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|epsilon|varepsilon|eta|xi|nu|chi|psi|kappa)$"
)
_FUNCTIONS = {"\\sin": "sin", "\\cos": "cos", "\\tan": "tan", "\\ln": "ln", "\\exp": "exp", "\\log": "log"}
_CLOSERS = {"(": ")", "{": "}", "[": "]"}


class NotAFormula(ValueError):
    """Not a formula, or not one that is understood as a whole."""


def parse(text: str) -> tuple[Node, frozenset[str]]:
    """The tree and the names of its variables.

    Raises:
        NotAFormula: any part of the text is not understood.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotAFormula(text[:40])
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\1\\pi/180)", text)
    for pattern, plain in _REWRITES:
        text = pattern.sub(plain, text)
    parser = _Parser(_tokens(text.strip()))
    tree = parser.sum()
    if parser.ahead:
        raise NotAFormula(text)
    return tree, frozenset(parser.names)


def _tokens(text: str) -> list[str]:
    tokens, place = list[str](), 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise NotAFormula(text)
        tokens.append(found.group().strip())
        if found["number"] and len(tokens) > 1 and re.match(r"[\d.]", tokens[-2]) and tokens[-3:-2] != ["_"]:
            raise NotAFormula(text)  # "3 4" is no product
        if re.match(r"\d[eE][-+]?\d", text[found.end() - 1 :]):
            raise NotAFormula(text)  # a power of ten, which is for `quantities` to read
        place = found.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place, self.names, self.bars = tokens, 0, set[str](), 0

    @property
    def ahead(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.ahead
        if not token or (wanted and token not in wanted):
            raise NotAFormula(token)
        self.place += 1
        return token

    def sum(self) -> Node:
        tree = self.product()
        while self.ahead in ("+", "-") and self.ahead:
            sign, term = self.take(), self.product()
            tree = ("+", tree, term if sign == "+" else ("-", term))
        return tree

    def product(self) -> Node:
        if self.ahead in ("-", "+") and self.ahead:
            sign, tree = self.take(), self.product()
            return ("-", tree) if sign == "-" else tree
        tree = self.mixed()
        while True:
            if self.ahead == "*" or self.ahead == "/":
                sign = self.take()
                negative = self.ahead == "-" and bool(self.take())
                factor: Node = self.power()
                tree = ("*" if sign == "*" else "/", tree, ("-", factor) if negative else factor)
            elif self._begins_factor():
                tree = ("*", tree, self.power())
            else:
                return tree

    def mixed(self) -> Node:
        r"""``3\frac{1}{2}`` is three and a half, as everyone writes it."""
        tree = self.power()
        if (
            tree[0] == "number"
            and self.ahead == "\\frac"
            and isinstance(tree[1], Fraction)
            and tree[1].denominator == 1
        ):
            part = self.power()
            if part[0] == "/" and all(isinstance(p, tuple) and p[0] == "number" for p in part[1:]):
                top, bottom = (p[1] for p in part[1:])  # type: ignore[index]
                if 0 < top < bottom:
                    return ("+", tree, part)
            return ("*", tree, part)
        return tree

    def power(self) -> Node:
        tree = self.atom()
        while self.ahead in ("!", "^") and self.ahead:
            if self.take() == "!":
                tree = ("!", tree)
            else:
                negative = self.ahead == "-" and bool(self.take())
                exponent = self.argument(chain=True)
                tree = ("^", tree, ("-", exponent) if negative else exponent)
        return tree

    def argument(self, chain: bool = False) -> Node:
        r"""What a command or ``^`` applies to: a group, or one digit as in ``\frac12`` (all digits behind ``^``)."""
        if self.ahead in ("{", "("):
            return self.group()
        if not chain and re.fullmatch(r"\d{2,}", self.ahead):
            digits = self.ahead
            self.tokens[self.place : self.place + 1] = [digits[0], digits[1:]]
        return self.power() if chain and not self.ahead.startswith("\\") else self.atom()

    def group(self) -> Node:
        opened = self.take("(", "{", "[")
        held, self.bars = self.bars, 0
        tree = self.sum()
        self.bars = held
        self.take(_CLOSERS[opened])
        return tree

    def atom(self) -> Node:
        token = self.ahead
        if token in _CLOSERS:
            return self.group()
        self.take()
        if token == "|":
            self.bars += 1
            tree = self.sum()
            self.take("|")
            self.bars -= 1
            return ("|", tree)
        if token[0].isdigit() or token[0] == ".":
            return ("number", Fraction(token + "0" if token.endswith(".") else token))
        if token == "\\frac":
            return ("/", self.argument(), self.argument())
        if token == "\\sqrt":
            return self.root()
        if token in _FUNCTIONS:
            return self.function(token)
        return self.name(token)

    def root(self) -> Node:
        degree: Node = ("number", Fraction(2))
        if self.ahead == "[":
            degree = self.group()
        whole = self.ahead.isdigit() and self.tokens[self.place - 1] == "\\sqrt"
        return ("root", self.atom() if whole else self.argument(), degree)

    def function(self, token: str) -> Node:
        base: Node = ("number", Fraction(10))
        if self.ahead == "_":
            self.take()
            base = self.argument()
        raised = None
        if self.ahead == "^":
            self.take()
            raised = self.argument(chain=True)
            if raised[0] != "number":
                raise NotAFormula(token)
        given = self.group() if self.ahead in ("(", "{") else self.product_of_function()
        tree: Node = ("log", given, base) if token == "\\log" else (_FUNCTIONS[token], given)
        return tree if raised is None else ("^", tree, raised)

    def product_of_function(self) -> Node:
        tree = self.power()
        while self._begins_factor() and self.ahead not in _FUNCTIONS and self.ahead != "(":
            tree = ("*", tree, self.power())
        return tree

    def name(self, token: str) -> Node:
        if token == "\\pi":
            return ("constant", "pi")
        if _GREEK.match(token) or (len(token) == 1 and token.isalpha()) or "_" in token[1:2]:
            if token == "e":
                return ("constant", "e")
            self.names.add(token)
            return ("name", token)
        if len(token) == 2 and token.isalpha() and token.islower() and token not in _NO_PRODUCTS:
            self.names |= set(token) - {"e"}
            parts: list[Node] = [("constant", "e") if c == "e" else ("name", c) for c in token]
            return ("*", *parts)
        raise NotAFormula(token)

    def _begins_factor(self) -> bool:
        token = self.ahead
        if not token or token in ("+", "-", "*", "/", "^", "!", ")", "}", "]", "_", "["):
            return False
        if token == "|":
            return self.bars == 0
        return not (token[0].isdigit() and re.match(r"[\d.]", self.tokens[self.place - 1]) is not None)


_NO_PRODUCTS = frozenset(
    ["cm", "mm", "km", "nm", "um", "kg", "mg", "ms", "hr", "yr", "ml", "cl", "dl", "lb", "oz", "ft", "in", "yd", "mi", "no", "or", "is", "of", "to", "by", "at", "on", "an", "as", "it", "so", "we", "he", "me", "my", "us", "up", "do", "go", "if", "am", "be"]
)  # fmt: skip
"""Two letters that are a unit or a word, not a product of variables."""
