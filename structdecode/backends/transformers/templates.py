"""Chat templates are programs of strangers: rendered in a sandbox by transformers, and here within limits.

One that loops is stopped when its time is over. A step that takes all memory (``"x" * 10**10``) cannot be stopped, so a
template is first rendered where each step is looked at before it is made (`sandbox.py`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from structdecode.backends.transformers.sandbox import OversizedStepError, render_within_limits
from structdecode.core.errors import ModelError

T = TypeVar("T")

SECONDS = 10.0
"""Far beyond what any honest template takes (milliseconds)."""


class EndlessTemplateError(Exception):
    """A template was not done in time."""


class OversizedTemplateError(Exception):
    """A template builds more than any honest one."""


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
    if getattr(processor, "chat_template", None):
        return _rendered_by(processor, processor.tokenizer, messages, generate)
    text = _rendered_by(processor.tokenizer, processor.tokenizer, messages, generate)
    if "'type': 'text'" not in text:
        return text
    picture = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None) or ""
    flat = [{**m, "content": "".join(p.get("text", str(picture)) for p in m["content"])} for m in messages]
    return _rendered_by(processor.tokenizer, processor.tokenizer, flat, generate)


def _rendered_by(owner: Any, tokenizer: Any, messages: Sequence[Mapping[str, Any]], generate: bool) -> str:
    template = owner.chat_template
    variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generate}
    try:
        source = template["default"] if isinstance(template, Mapping) else template
        render_within_limits(source, {**variables, **tokenizer.special_tokens_map})
    except OversizedStepError as error:
        raise OversizedTemplateError(str(error)) from None
    except EndlessTemplateError:
        raise
    except Exception:  # what else is wrong with it, the rendering itself says
        pass
    return str(owner.apply_chat_template(list(messages), add_generation_prompt=generate, tokenize=False))


def check_template(processor: Any, name: str, seconds: float = SECONDS) -> None:
    """Renders one short conversation.

    Raises:
        ModelError: that does not end, or takes too much memory. What else a template raises it may not raise for the
            prompts to come.
    """
    words = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    try:
        within(seconds, lambda: rendered(processor, words))
    except EndlessTemplateError:
        raise ModelError(f"model {name!r}: its chat template is not done after {seconds:g} s: it loops") from None
    except OversizedTemplateError as error:
        raise ModelError(f"model {name!r}: its chat template would take all memory: {error}: correct it") from None
    except Exception:  # templates raise whatever they like
        return
