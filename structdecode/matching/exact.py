"""Values of formulas: a formula is parsed whole or not at all, and equal values have equal forms.

Rational values are exact. Others are computed to 110 digits and kept to 40 significant ones, so equality is that of
canonical forms, small magnitudes included. A formula with variables is its values at fixed points (identity testing
after Schwartz, J. ACM 27(4), 1980). Nothing here needs more than the standard library.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from structdecode.matching.parsing import Node, NotAFormula, parse

_CONTEXT = decimal.Context(prec=110, Emax=10**6, Emin=-(10**6), traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow])  # fmt: skip
_KEPT = decimal.Context(prec=40, Emax=10**6, Emin=-(10**6))
_MAX_BITS = 8000
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651328230664709384460955058223172535940812848111745")  # fmt: skip
_POINTS = (Fraction(1), Fraction(-1), Fraction(29, 17), Fraction(3, 41))
"""Each variable's own number times these: signs and sizes differ, so that |x| is not x."""

Number = Fraction | Decimal
Value = Fraction | str | tuple[object, ...]
"""A rational, the digits of another number, or the variables of a formula and its values at the points."""


@dataclass(frozen=True)
class Formula:
    """Attributes:
    value: equal for equal formulas, different for others.
    number: the value of one without variables, as close as a fraction comes; None for others.
    """

    value: Value
    number: Fraction | None


class _Undefined(ArithmeticError):
    """No real value, or none that is worth its time."""


@lru_cache(maxsize=4096)
def evaluate(text: str) -> Formula | None:
    r"""The value of a formula in LaTeX or plain notation; None where any part of it is not understood.

    >>> evaluate(r"\frac1{2}") == evaluate("0.5") == evaluate("1/2")
    True
    >>> evaluate("5!").number, evaluate(r"\frac{1}{-2}").number, evaluate("2√3") == evaluate(r"\sqrt{12}")
    (Fraction(120, 1), Fraction(-1, 2), True)
    """
    try:
        tree, names = parse(text)
    except (NotAFormula, RecursionError):
        return None
    if not names:
        value = _at(tree, {})
        return None if value is None else Formula(_canonical(value), _as_fraction(value))
    values = tuple(
        None if (v := _at(tree, {n: point * _own_number(n) for n in names})) is None else _canonical(v)
        for point in _POINTS
    )
    if sum(v is not None for v in values) < 2:
        return None
    if len(set(values)) == 1:  # x/x: a number in disguise
        return Formula(values[0] or "", None)
    return Formula((tuple(sorted(names)), values), None)


def _own_number(name: str) -> Fraction:
    code = 0
    for letter in name:
        code = (code * 131 + ord(letter)) % 99991
    return Fraction(2 * code + 1, 97)


def _at(tree: Node, points: Mapping[str, Fraction]) -> Number | None:
    try:
        with decimal.localcontext(_CONTEXT):
            return _value(tree, points)
    except (ArithmeticError, ValueError, RecursionError):
        return None


def _value(tree: Node, points: Mapping[str, Fraction]) -> Number:
    operation, *given = tree
    if operation == "number":
        return given[0]  # type: ignore[return-value]
    if operation == "name":
        return points[given[0]]  # type: ignore[index]
    if operation == "constant":
        return _PI if given[0] == "pi" else Decimal(1).exp()
    return _OPERATIONS[str(operation)](*(_value(part, points) for part in given))  # type: ignore[arg-type]


def _same(a: Number, b: Number) -> tuple[Decimal, Decimal]:
    return _decimal(a), _decimal(b)


def _decimal(value: Number) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(value.numerator) / Decimal(value.denominator)


def _add(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + b
    x, y = _same(a, b)
    total = x + y
    return Fraction(0) if abs(total) <= max(abs(x), abs(y)).scaleb(-90) else total


def _multiply(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a * b)
    x, y = _same(a, b)
    return x * y


def _divide(a: Number, b: Number) -> Number:
    if not b:
        raise _Undefined
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a / b)
    x, y = _same(a, b)
    return x / y


def _negate(a: Number) -> Number:
    return a * -1 if isinstance(a, Fraction) else a.copy_negate()


def _power(a: Number, b: Number) -> Number:
    exponent = b if isinstance(b, Fraction) else None
    if exponent is not None and exponent.denominator == 1:
        whole = exponent.numerator
        if not a and whole <= 0:
            raise _Undefined
        if isinstance(a, Decimal):
            return a**whole
        size = max(a.numerator.bit_length(), a.denominator.bit_length())
        if abs(a) != 1 and a and size * abs(whole) > _MAX_BITS:
            raise _Undefined
        return a**whole
    if a < 0:
        raise _Undefined
    if not a:
        return Fraction(0)
    if exponent is not None and isinstance(a, Fraction):
        root = _root(a, exponent.denominator)
        if root is not None:
            return _power(root, Fraction(exponent.numerator))
    x, y = _same(a, b)
    return (y * x.ln()).exp()


def _root(a: Fraction, degree: int) -> Fraction | None:
    """The exact root of a rational, if it has one."""
    parts = []
    for part in (a.numerator, a.denominator):
        guess = int((Decimal(part).ln() / degree).exp().to_integral_value()) if part > 1 else part
        if degree > 64 or guess**degree != part:
            return None
        parts.append(guess)
    return Fraction(*parts)


def _nth_root(a: Number, degree: Number) -> Number:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or degree < 2:
        raise _Undefined
    if a < 0 and degree % 2:
        return _negate(_power(_negate(a), 1 / degree))
    return _power(a, 1 / degree)


def _factorial(a: Number) -> Number:
    if not isinstance(a, Fraction) or a.denominator != 1 or not 0 <= a <= 400:
        raise _Undefined
    return Fraction(math.factorial(int(a)))


def _log(a: Number, base: Number) -> Number:
    if a <= 0 or base <= 0 or base == 1:
        raise _Undefined
    x, y = _same(a, base)
    return _rational(x.ln() / y.ln())


def _sine(a: Number) -> Number:
    x = _decimal(a)
    if abs(x) > 10**6:
        raise _Undefined
    x = x.remainder_near(2 * _PI)
    term, total, n = x, x, 1
    while abs(term) > Decimal("1e-115"):
        n += 2
        term = -term * x * x / (n * (n - 1))
        total += term
    return Fraction(0) if abs(total) < Decimal("1e-95") else _rational(total)


def _cosine(a: Number) -> Number:
    return _sine(_decimal(a) + _PI / 2)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * _MAX_BITS:
        raise _Undefined
    return value


def _rational(value: Number) -> Number:
    """The small fraction that a computed value is, to 60 digits; else itself."""
    if isinstance(value, Fraction) or not value or not -40 < value.adjusted() < 40:
        return value
    near = Fraction(value).limit_denominator(10**6)
    return near if near and abs(_decimal(near) - value) <= abs(value).scaleb(-60) else value


def _canonical(value: Number) -> Fraction | str:
    with decimal.localcontext(_CONTEXT):
        value = _rational(value)
    return value if isinstance(value, Fraction) else str(_KEPT.plus(value).normalize(_KEPT))


def _as_fraction(value: Number) -> Fraction:
    canonical = _canonical(value)
    return canonical if isinstance(canonical, Fraction) else Fraction(Decimal(canonical))


_OPERATIONS: Mapping[str, Callable[..., Number]] = {
    "+": _add, "*": _multiply, "/": _divide, "-": _negate, "^": _power, "root": _nth_root, "!": _factorial,
    "|": abs, "log": _log, "ln": lambda a: _log(a, Decimal(1).exp()), "exp": lambda a: _power(Decimal(1).exp(), a),
    "sin": _sine, "cos": _cosine, "tan": lambda a: _divide(_sine(a), _cosine(a)),
}  # fmt: skip
