"""How many tokens an example has for a model, without the pixels of its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from structdecode.backends.transformers.chat import ChatRenderer, Message
from structdecode.core.problems import BadRow

Size = tuple[int, int]
"""Width and height in pixels."""


class TokenCounter:
    """Counts what a processor makes of a chat.

    What a picture takes depends on its size alone, so it is measured once a size, on an empty picture.
    """

    def __init__(self, processor: Any) -> None:
        self.chat = ChatRenderer(processor)
        self._more: dict[Size, int] = {}

    def of_text(self, text: str) -> int:
        return len(self.chat.tokenizer.encode(text, add_special_tokens=False))

    def of_chat(self, messages: Sequence[Message], sizes: Sequence[Size]) -> int:
        """Length of ``input_ids`` for a chat with pictures of these sizes.

        Raises:
            ModelError: the chat template refuses the chat.
            BadRow: it changes a text, or the processor refuses a picture of this size.
        """
        return len(self.chat.tokens(self.chat.render(messages)).ids) + sum(map(self.of_image, sizes))

    def of_image(self, size: Size) -> int:
        """Tokens beyond the one mark that the chat template writes (0 for Mllama, which attends to pictures beside)."""
        if size not in self._more:
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
            reply = {"role": "assistant", "content": [{"type": "text", "text": "!"}]}
            text = self.chat.render([message, reply]).text
            adds = self.chat.adds_special(text)
            try:
                expanded = self.chat.processor(
                    text=[text], images=[[Image.new("RGB", size)]], add_special_tokens=adds, return_tensors="pt"
                )
            except Exception as error:  # Qwen2.5-VL's raises on a picture 200 times as wide as high, for one
                raise BadRow(
                    "image-refused", f"the processor refuses a picture of {size[0]}x{size[1]}: {error}"
                ) from None
            plain = self.chat.tokenizer.encode(text, add_special_tokens=adds)
            self._more[size] = expanded["input_ids"].shape[1] - len(plain)
        return self._more[size]
