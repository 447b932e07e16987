"""A tokenizer in a processor's place: models for texts alone run on the same engine, as verifiers."""

from __future__ import annotations

from typing import Any


class TextProcessor:
    """What the engine asks of a processor, for a model that takes no pictures."""

    image_processor = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: list[str], images: Any = None, **options: Any) -> Any:
        """The tokenizer's batch.

        Raises:
            ValueError: there are pictures.
        """
        if images:
            raise ValueError("the model takes no pictures")
        return self.tokenizer(text, **options)
