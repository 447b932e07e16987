"""Chat templates are programs of strangers: rendered in a sandbox by transformers, and here within a time limit."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
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


def rendered(processor: Any, messages: Sequence[Mapping[str, Any]], *, generate: bool = True) -> str:
    """A conversation as the model's text, by the processor's template or, where only the tokenizer has one, by that.

    Such a template may know texts alone, not lists of parts: then it gets the parts as one text, a picture as its token.
    """
    options = {"add_generation_prompt": generate, "tokenize": False}
    if getattr(processor, "chat_template", None):
        return str(processor.apply_chat_template(list(messages), **options))
    text = str(processor.tokenizer.apply_chat_template(list(messages), **options))
    if "'type': 'text'" not in text:
        return text
    picture = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None) or ""
    flat = [{**m, "content": "".join(p.get("text", str(picture)) for p in m["content"])} for m in messages]
    return str(processor.tokenizer.apply_chat_template(flat, **options))


def check_template(processor: Any, name: str, seconds: float = SECONDS) -> None:
    """Renders one short conversation.

    Raises:
        ModelError: that does not end. What else a template raises it may not raise for the prompts to come.
    """
    words = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    try:
        within(seconds, lambda: rendered(processor, words))
    except EndlessTemplateError:
        raise ModelError(f"model {name!r}: its chat template is not done after {seconds:g} s: it loops") from None
    except Exception:  # templates raise whatever they like
        return
