"""Batches for image-text models: the processor's own inputs, and labels that hold the assistant's tokens only.

Pixels, their masks and the expansion of image marks are the processor's business (one call a batch), so whatever a
model of transformers takes comes out right: aspect ratios and ``cross_attention_mask`` for Mllama, expanded image
tokens for LLaVA, Qwen2.5-VL and Idefics3. Stage tags are plain text unless the tokenizer knows them as tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from structdecode.backends.transformers.chat import ChatRenderer, Message, Rendered, Tokens
from structdecode.core.errors import ConfigError, DataError, ModelError
from structdecode.core.problems import BadRow

IGNORED = -100
"""The label that transformers' losses pass over."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A chat that ends with an assistant turn, its pictures decoded (RGB), and "file:line"."""

    id: str
    messages: list[Message]
    images: tuple[Image.Image, ...]
    source: str


class Collator:
    """Makes batches of examples.

    An example that cannot be used (more than ``max_length`` tokens, an image mark of the model's in its text, a picture
    that the processor refuses) is left out of its batch with a warning, never cut.
    ``ConversationDataset.usable`` finds such ones before.

    Mllama does not keep rows with different numbers of pictures apart (see `counts_pictures`). A batch that mixes them
    is made all the same, with a warning; ``BucketSampler(groups=dataset.pictures)`` makes none.

    Attributes:
        rejected: "source: reason" of the examples left out so far, by this process.
        mixed: whether a batch mixed examples with different numbers of pictures for a model that does not keep them apart.
    """

    def __init__(
        self, processor: Any, *, max_length: int | None = None, padding_side: Literal["left", "right"] = "right"
    ) -> None:
        """Raises `ConfigError` for a wrong value, `ModelError` where the tokenizer gives no character offsets."""
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length must be at least 1, not {max_length}")
        if padding_side not in ("left", "right"):
            raise ConfigError(f"padding_side must be left or right, not {padding_side!r}")
        self.processor, self.chat = processor, ChatRenderer(processor)
        self.max_length, self.padding_side = max_length, padding_side
        self.rejected: list[str] = []
        self.mixed = False

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Model inputs and ``labels`` [B, L].

        Raises:
            DataError: no example of the batch can be used.
            ModelError: chat template and processor do not fit together.
        """
        encoded = [(example, *found) for example in examples if (found := self._encoded(example)) is not None]
        while encoded:
            batch = self._processed([(example, rendered) for example, rendered, _ in encoded])
            reasons = self._alone(encoded) if batch is None else self._long(batch)
            if batch is not None and not any(reasons):
                self._warn_of_mixing(batch)
                batch["labels"] = self._labels(batch, [tokens for _, _, tokens in encoded])
                return batch
            for (example, *_), reason in zip(encoded, reasons, strict=True):
                if reason:
                    self._reject(example, reason)
            encoded = [item for item, reason in zip(encoded, reasons, strict=True) if not reason]
        raise DataError(
            f"no example of a batch can be used ({'; '.join(self.rejected[-len(examples) :])}): run "
            "`structdecode data check --model ... --max-length ... --fix` and train on what it writes"
        )

    def _encoded(self, example: Example) -> tuple[Rendered, Tokens] | None:
        try:
            rendered = self.chat.render(example.messages)
        except BadRow as bad:
            self._reject(example, str(bad))
            return None
        return rendered, self.chat.tokens(rendered)

    def _warn_of_mixing(self, batch: dict[str, Tensor]) -> None:
        """Once, where rows would attend to the padding of others' pictures."""
        seen = batch.get("cross_attention_mask")  # [B, L, pictures, tiles]
        if self.mixed or seen is None or seen.flatten(3).any(dim=3).any(dim=1).all():
            return
        self.mixed = True
        _log.warning(
            "a batch mixes examples with different numbers of pictures, and this model lets those with fewer attend to "
            "padding: use BucketSampler(groups=dataset.pictures)"
        )

    def _long(self, batch: dict[str, Tensor]) -> list[str]:
        """For each row why it is too long, or nothing."""
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        limit = self.max_length or max(lengths)
        return [too_long(length, limit) if length > limit else "" for length in lengths]

    def _alone(self, items: Sequence[tuple[Example, Rendered, Tokens]]) -> list[str]:
        """For each example why the processor refuses it by itself, or nothing: one bad picture is not the batch's end.

        Raises:
            ModelError: each is fine by itself.
        """
        reasons = []
        for example, rendered, _ in items:
            try:
                self._call([(example, rendered)])
                reasons.append("")
            except Exception as error:
                reasons.append(f"the processor refuses it: {str(error).strip().splitlines()[0]}")
        if not any(reasons):
            raise ModelError(f"the processor refuses a batch of {len(items)} whose examples it takes one by one")
        return reasons

    def _reject(self, example: Example, reason: str) -> None:
        self.rejected.append(f"{example.source}: {reason}")
        _log.warning("left out: %s", self.rejected[-1])

    def _processed(self, items: Sequence[tuple[Example, Rendered]]) -> dict[str, Tensor] | None:
        """The model's inputs; None where the processor refuses the batch."""
        try:
            return self._call(items)
        except Exception as error:  # processors raise whatever they like on pictures they cannot take
            _log.debug("refused: %s", error)
            return None

    def _call(self, items: Sequence[tuple[Example, Rendered]]) -> dict[str, Tensor]:
        """``images`` are nested, with an empty list for an example without."""
        texts = [rendered.text for _, rendered in items]
        images = [list(example.images) for example, _ in items]
        batch = self.processor(
            text=texts, images=images if any(images) else None, padding=True, padding_side=self.padding_side,
            add_special_tokens=self.chat.adds_special(texts[0]), return_tensors="pt",
        )  # fmt: skip
        return {name: value for name, value in batch.items() if isinstance(value, Tensor)}

    def _labels(self, batch: dict[str, Tensor], rows: Sequence[Tokens]) -> Tensor:
        """[B, L] the ids that carry loss, elsewhere `IGNORED`.

        Pictures stand before the first answer, so from there on a row has the tokens that it has without pictures,
        whatever the processor made of the image marks; that is checked.
        """
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, tokens in enumerate(rows):
            places = batch["attention_mask"][row].nonzero().flatten()  # [length], padding on either side left out
            tail = len(tokens.ids) - tokens.trained.index(True)
            at, ids = places[-tail:], torch.tensor(tokens.ids[-tail:])
            if len(at) < tail or not torch.equal(batch["input_ids"][row, at], ids):
                raise ModelError("the processor changes the text behind the pictures: labels cannot be placed")
            trained = torch.tensor(tokens.trained[-tail:])
            labels[row, at[trained]] = ids[trained]
        return labels


def too_long(length: int, max_length: int) -> str:
    return f"{length} tokens, more than {max_length}: raise max_length, shorten it or leave it out"
