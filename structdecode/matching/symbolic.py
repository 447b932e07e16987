"""Symbolic equality by math-verify, in a process of its own that can be killed.

math-verify limits its time with SIGALRM, which works in the main thread only, and some expressions keep sympy busy
for ever (``9^{9^{9^9}}`` in C code that no signal interrupts). So a helper process compares: it gets CPU seconds,
and where they are up it dies and the next question starts another. Run as a module this file is that process.
"""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from structdecode.core.errors import MissingExtraError

CPU_SECONDS = 5.0
"""For one comparison. CPU time, so that a busy machine gives the same verdicts."""
WALL_SECONDS = 120.0


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    equal: whether the expressions are equivalent; None where it ran out of time.
    canonical: the answer as sympy writes it, simplified no further; empty where it cannot be parsed.
    values: both as floats, where they are plain numbers.
    """

    equal: bool | None
    canonical: str = ""
    values: tuple[float, float] | None = None


class _Helper:
    """One process for all threads, started on the first question."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, reference: str, answer: str) -> Comparison:
        with self._lock:
            process = self._running()
            timer = threading.Timer(WALL_SECONDS, process.kill)
            timer.start()
            try:
                line = json.dumps({"reference": reference, "answer": answer, "seconds": CPU_SECONDS})
                process.stdin.write(line + "\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                reply = process.stdout.readline()  # type: ignore[union-attr]
            except (BrokenPipeError, ValueError):
                reply = ""
            finally:
                timer.cancel()
            if not reply:
                self._stop()
                return Comparison(None)
        data = json.loads(reply)
        return Comparison(data["equal"], data["canonical"], tuple(data["values"]) if data["values"] else None)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            )  # fmt: skip
            atexit.register(self._process.kill)
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            atexit.unregister(self._process.kill)
            self._process.kill()
            self._process.communicate()
            self._process = None


_helper = _Helper()


def compare(reference: str, answer: str) -> Comparison:
    """Compares two LaTeX expressions (without dollar signs). Works in any thread.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise MissingExtraError("math-verify", "eval")
    return _helper.ask(reference, answer)


def _evaluate(reference: str, answer: str) -> dict[str, Any]:
    """Runs in the helper. Units and words are left to our own rules, so normalisation does not drop units."""
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.parser import NormalizationConfig

    keep_units = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=keep_units)]
    gold, given = (
        parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None) for text in (reference, answer)
    )
    if not gold or not given:
        return {"equal": False, "canonical": str(given[0]) if given else "", "values": None}
    equal = verify(gold, given, float_rounding=12, timeout_seconds=None)
    try:
        values = [float(gold[0]), float(given[0])]
    except (TypeError, ValueError, OverflowError, AttributeError):
        values = None
    return {"equal": bool(equal), "canonical": str(given[0]), "values": values}


def _serve() -> None:
    """One JSON object a line in, one out. The timer's default action ends the process, whatever it is busy with."""
    import logging

    logging.disable(logging.CRITICAL)
    timed = hasattr(signal, "setitimer")
    if timed:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    import math_verify  # noqa: F401  (imported before the clock runs)

    for line in sys.stdin:
        question = json.loads(line)
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, question["seconds"])
        try:
            reply = _evaluate(question["reference"], question["answer"])
        except (Exception, RecursionError, MemoryError):
            reply = {"equal": False, "canonical": "", "values": None}
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    _serve()
