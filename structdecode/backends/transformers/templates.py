"""Chat templates are programs of strangers: rendered in a sandbox by transformers, and here within a time limit."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from structdecode.errors import ModelError

T = TypeVar("T")

SECONDS = 10.0
"""Far beyond what any honest template takes (milliseconds)."""


class EndlessTemplateError(Exception):
    """A template was not done in time."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Work of pure Python, with `EndlessTemplateError` raised in it when the time is over, in whatever thread it runs."""
    caller, lock, done = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(caller), ctypes.py_object(EndlessTemplateError)
                )

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        with lock:
            done = True
        timer.cancel()


def check_template(processor: Any, name: str, seconds: float = SECONDS) -> None:
    """Renders one short conversation.

    Raises:
        ModelError: that does not end. What else a template raises it may not raise for the prompts to come.
    """
    words = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    try:
        within(seconds, lambda: processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False))
    except EndlessTemplateError:
        raise ModelError(f"model {name!r}: its chat template is not done after {seconds:g} s: it loops") from None
    except Exception:  # templates raise whatever they like
        return
