"""Text is text: a question, an earlier turn or an answer that is judged may spell tokens that steer the model.

The tokenizer would read ``<|video_pad|>`` or ``[IMG]`` in them as the token itself: the processor looks for a picture
that is not there, a turn ends in the middle. So a space is put behind its first character. Stage tags that a checkpoint
has as tokens are left alone: the instruction has to name them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from structdecode.backends.transformers.templates import SECONDS, rendered, within

_OF_A_CONFIG = re.compile(r"token_(id|index)$")


def control_tokens(processor: Any, config: Any) -> frozenset[str]:
    """Tokens that the processor, the tokenizer, the model's configuration or the chat template has a use for."""
    tokenizer = processor.tokenizer
    named = [v for owner in (processor, tokenizer) for k, v in vars(owner).items() if k.endswith("_token")]
    named += dict(getattr(tokenizer, "special_tokens_map", {})).values()
    named += [tokenizer.convert_ids_to_tokens(i) for i in _ids(config.to_dict()) if 0 <= i < len(tokenizer)]
    template = _conversation(processor)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    named += [token.content for token in added if token.special and token.content in template]
    return frozenset(str(n) for n in named if isinstance(n, str) or hasattr(n, "content")) - _plain(named)


def _conversation(processor: Any) -> str:
    """What the template makes of a short one, behind its source: markers of turns may stand in neither alone."""
    source = " ".join(str(getattr(owner, "chat_template", "")) for owner in (processor, processor.tokenizer))
    turns = [{"role": role, "content": [{"type": "text", "text": "?"}]} for role in ("user", "assistant", "user")]
    try:
        return source + within(SECONDS, lambda: rendered(processor, turns))
    except Exception:  # templates raise whatever they like
        return source


def _plain(named: list[Any]) -> set[str]:
    """Words and white space that some tokenizer has for its end of text or its padding."""
    return {str(name) for name in named if len(str(name)) < 3 or str(name).isalnum() or str(name).isspace()}


def _ids(config: dict[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _ids(value)
        elif _OF_A_CONFIG.search(str(key)):
            yield from (i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int))


class Escaper:
    """Puts texts so that no control token is in them; ordinary ones stay as they are."""

    def __init__(self, tokens: frozenset[str]) -> None:
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        self._found = re.compile("|".join(map(re.escape, longest_first))) if tokens else None

    def __call__(self, text: str) -> str:
        if self._found is None:
            return text
        while self._found.search(text):  # one may come to light within another
            text = self._found.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text
