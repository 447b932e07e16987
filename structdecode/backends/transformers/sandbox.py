"""A chat template's own environment in which no step builds more than a template has a use for.

A step is an operator, a filter, a method of a text, a list that is written down, or text that is put out. How much it
builds at most follows from what it is given, so it is refused before it takes memory or time that nothing gives back:
`"x" * 10**10`, `"x".ljust(10**10)`, `"%9999999999d" % 1`, a text or a list that a loop doubles.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, update_wrapper
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

LARGEST = 10_000_000
"""Characters or items that one step may build, or bits of a number: far beyond what any honest template builds."""

LARGEST_IN_ALL = 100 * LARGEST
"""The same for all steps of one rendering together."""

_ADDING = frozenset({
    "+", "~", "[]", "attr", "count", "d", "default", "endswith", "find", "index", "lstrip", "map", "partition", "reject",
    "rejectattr", "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "select",
    "selectattr", "split", "splitlines", "startswith", "strip", "trim",
})  # fmt: skip
"""Steps that build no more than all they are given has together."""
_FORMATTING = frozenset({"%", "format", "format_map"})
_OPERATORS: dict[type[nodes.Node], str] = {nodes.Add: "+", nodes.Mul: "*", nodes.Pow: "**", nodes.Mod: "%"}


class OversizedStepError(BaseException):
    """A step would build too much. No `Exception`: jinja2 takes those for what is wrong with a constant."""


class _Account(threading.local):
    built = 0


_account = _Account()


def render_within_limits(source: str, variables: Mapping[str, Any]) -> None:
    """Raises:
    OversizedStepError: a step, or all together, would build too much.
    Exception: what else the template raises.
    """
    _account.built = 0
    _compiled(source).render(**variables)


@lru_cache
def _compiled(source: str) -> Template:
    """The template in transformers' own environment, with all its steps looked at; constants when it is compiled."""
    environment: Any = chat_template_utils._compile_jinja_template("").environment.overlay(finalize=_put_out)
    environment.__class__ = _Watched
    operators = {name: environment.binop_table[name] for name in _OPERATORS.values()}
    steps = {**environment.filters, **operators, "~": _joined, "[]": lambda value: value}
    environment.filters = {name: _watched(name, function) for name, function in steps.items()}
    for step in reversed(list(environment.parse(source).find_all(nodes.Filter))):  # inner ones first
        with suppress(nodes.Impossible):
            step.as_const()
    return environment.from_string(source)  # type: ignore[no-any-return]


class _Watched(ImmutableSandboxedEnvironment):
    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _AsFilters(self).visit(super()._parse(source, name, filename))  # type: ignore[no-any-return]

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(inspect.unwrap(function), "__self__", None)
        of_a_value = isinstance(owner, str | bytes | int | float)
        step, subject = (function.__name__, owner) if of_a_value else ("+", [])
        args = tuple(map(_listed, args))
        _check(_most(step, subject, [*args, *kwargs.values()]))
        return _built(super().call(context, function, *args, **kwargs))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        texts = list(parts)
        _check(sum(map(len, texts)))
        return str(_built("".join(texts)))


class _AsFilters(NodeTransformer):
    """Makes operators and what is written down in brackets filters, so that filters are all there is to watch."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node)
        if isinstance(node, nodes.BinExpr) and type(node) in _OPERATORS:
            return self._filter(_OPERATORS[type(node)], node.left, [node.right])
        if isinstance(node, nodes.Concat):
            return self._filter("~", nodes.List(node.nodes, lineno=node.lineno, environment=self.environment), [])
        written = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
        cut = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        return self._filter("[]", node, []) if written or cut else node

    def _filter(self, name: str, subject: nodes.Node, others: list[nodes.Node]) -> nodes.Filter:
        return nodes.Filter(
            subject, name, others, [], None, None, lineno=subject.lineno, environment=self.environment
        )  # fmt: skip


def _watched(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    told = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or the environment comes first

    def watched(*args: Any, **kwargs: Any) -> Any:
        values = [_listed(value) for value in args[told:]]
        _check(_most(step, values[0], [*values[1:], *kwargs.values()]))
        return _built(function(*args[:told], *values, **kwargs))

    return update_wrapper(watched, function)


def _listed(value: Any) -> Any:
    """What is made as it is asked for is made now: how much it is cannot be seen otherwise."""
    return list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value


def _joined(parts: Sequence[Any]) -> str:
    return "".join(map(str, parts))


def _put_out(value: Any) -> Any:
    _check(_size(value))
    return value


# ------------------------------------------------------------------ sizes
def _most(step: str, subject: Any, others: Sequence[Any]) -> int:
    """How many characters, items or bits a step builds at most."""
    if step == "*" and isinstance(subject, int):
        subject, others = others[0], [subject]
    if step in _ADDING:
        return _size([subject, *others])
    if isinstance(subject, int) and step in _OPERATORS.values():
        times = others[0] if step == "**" and isinstance(others[0], int) else 1
        return subject.bit_length() * abs(times) + sum(_size(other) for other in others)
    if step in _FORMATTING:
        return _formatted(str(subject), others)
    if step == "replace" and len(others) > 1 and isinstance(subject, str) and isinstance(others[0], str):
        return len(subject) + subject.count(others[0]) * _size(others[1])
    *_, second, first = sorted([1, _size(subject), *(abs(o) if isinstance(o, int) else _size(o) for o in others)])
    return first * max(second, 1)


def _formatted(form: str, values: Sequence[Any]) -> int:
    """Of a text with fields: each may be as long as all values, and as wide as a number says in it or in a value."""
    widths = [int(digits[:20]) for digits in re.findall("[0-9]+", form)]
    if re.search(r"\*|\{[^{}]*\{", form):
        widths += _numbers(values)
    fields = form.count("%") + form.count("{")
    return len(form) + fields * (_size(values) + max(widths, default=0))


def _numbers(value: Any) -> list[int]:
    if isinstance(value, int):
        return [abs(value)]
    return [number for inner in _inside(value) for number in _numbers(inner)]


def _size(value: Any) -> int:
    """Characters and items of a value with all that is in it, as often as it is there."""
    try:
        return _counted(value, {})
    except RecursionError:
        raise OversizedStepError("nested more deeply than can be followed") from None


def _counted(value: Any, known: dict[int, int]) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if id(value) not in known:
        known[id(value)] = LARGEST  # for what is in itself
        known[id(value)] = 1 + sum(_counted(inner, known) for inner in _inside(value))
    return known[id(value)]


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Namespace):
        value = value._Namespace__attrs
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, Collection) and not isinstance(value, str | bytes) else ()


def _built(result: Any) -> Any:
    _account.built += len(result) if isinstance(result, str | bytes | list | tuple | dict) else 1
    if _account.built > LARGEST_IN_ALL:
        raise OversizedStepError(f"its steps build more than {LARGEST_IN_ALL:,} characters or items together")
    return result


def _check(most: int) -> None:
    if most > LARGEST:
        raise OversizedStepError(f"a step of it would build more than {LARGEST:,} characters or items")
