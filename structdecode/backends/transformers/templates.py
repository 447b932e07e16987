"""Chat templates are programs of strangers: rendered in a sandbox by transformers, and here within limits.

One that loops is stopped when its time is over. A product (``"x" * 10**10``) takes all memory in one step, which
nothing stops, so a template that multiplies is first rendered where its products are looked at before they are made.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

from jinja2 import Environment, Template, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from structdecode.core.errors import ModelError

T = TypeVar("T")

SECONDS = 10.0
"""Far beyond what any honest template takes (milliseconds)."""

LARGEST = 10_000_000
"""Characters or items of a product, or bits of a number: far beyond what any honest template multiplies."""


class EndlessTemplateError(Exception):
    """A template was not done in time."""


class OversizedTemplateError(Exception):
    """A template builds something larger than `LARGEST` in one step."""


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
    try:
        bounded = _bounded(template["default"] if isinstance(template, Mapping) else template)
        if bounded is not None:
            bounded.render(messages=messages, add_generation_prompt=generate, **tokenizer.special_tokens_map)
    except (EndlessTemplateError, OversizedTemplateError):
        raise
    except Exception:  # what else is wrong with it, the rendering itself says
        pass
    return str(owner.apply_chat_template(list(messages), add_generation_prompt=generate, tokenize=False))


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_size(operator, left, right)
        return super().call_binop(context, operator, left, right)


@lru_cache
def _bounded(source: str) -> Template | None:
    """A template in transformers' own environment with its products looked at; None where it has none.

    Raises:
        OversizedTemplateError: one of constants, which are multiplied when the template is compiled.
    """
    environment: Environment = chat_template_utils._compile_jinja_template("").environment.overlay()
    products = list(environment.parse(source).find_all((nodes.Mul, nodes.Pow)))
    for product in reversed(products):  # inner ones first
        with suppress(nodes.Impossible):
            _check_size(product.operator, product.left.as_const(), product.right.as_const())
    if not products:
        return None
    environment.__class__ = _Bounded
    return environment.from_string(source)


def _check_size(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        size = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    else:
        times, repeated = (left, right) if isinstance(left, int) else (right, left)
        size = len(repeated) * times if isinstance(times, int) and isinstance(repeated, Sized) else 0
    if size > LARGEST:
        raise OversizedTemplateError(f"it multiplies to something larger than {LARGEST:,}")


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
