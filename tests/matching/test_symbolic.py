"""Formulas are compared in any thread, and an endless one ends."""

from __future__ import annotations

import threading

import pytest

from structdecode.core.errors import MissingExtraError
from structdecode.matching import match, symbolic
from structdecode.matching.types import Match, Question

SQUARE = Question("1", "?", ("x^2+2x+1",))
PAIR = Question("1", "?", (r"\{1, x^2\}",), kind="latex")
"""A set, which only a computer algebra system compares; other formulas are compared without one."""


def test_in_threads_that_are_not_the_main_one() -> None:
    found: list[Match] = []
    threads = [threading.Thread(target=lambda: found.append(match(r"$\{x^2, 1\}$", PAIR))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [m.rule for m in found] == ["latex:equivalent"] * 4


def test_an_endless_formula_is_wrong_and_the_next_one_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "CPU_SECONDS", 1.0)
    assert match(r"$\{1, 9^{9^{9^{9}}}\}$", PAIR) == Match(False, "latex:timeout", r"\{1,9^{9^{9^{9}}}\}")
    monkeypatch.undo()
    assert match(r"$\{x^2, 1\}$", PAIR).rule == "latex:equivalent"
    assert not match("$9^{9^{9^{9}}}$", SQUARE).correct


def test_without_math_verify_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'math-verify' is needed here: pip install 'structdecode\[eval\]'"):
        match(r"$\{x^2, 1\}$", PAIR)
    assert match("$x^2 + 2x + 1$", SQUARE).rule == "latex:exact"
    assert match("$(x+1)^2$", SQUARE).rule == "latex:equivalent"
