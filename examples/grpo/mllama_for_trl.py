"""What TRL's GRPOTrainer and DPOTrainer need to train a Mllama with pictures.

The trainers (TRL 1.16) hand a model the pictures' tensors that it knows by name (``pixel_values``, ``image_grid_thw``,
...); Mllama's ``aspect_ratio_ids``, ``aspect_ratio_mask`` and ``cross_attention_mask`` are not among them. For one
picture of one tile a prompt, all three follow from ``pixel_values`` and ``input_ids``: so the processor leaves them
out, and a hook on the model puts them back. DPOTrainer passes on the mask of the
prompts alone, which does not fit prompt and completion, and has completions tokenized by themselves, in front of which
transformers' processor puts a beginning-of-text token. The trainers themselves are as TRL ships them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import MllamaProcessor


class OneTileProcessor(MllamaProcessor):
    """A Mllama processor whose only picture tensor is ``pixel_values`` [B, 1, 1, C, H, W]."""

    @classmethod
    def of(cls, processor: MllamaProcessor) -> OneTileProcessor:
        return cls(processor.image_processor, processor.tokenizer, chat_template=processor.chat_template)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        if images is None and kwargs.get("add_special_tokens") is False:
            return self.tokenizer(text, **kwargs)  # the part of a text that is asked for, nothing in front of it
        batch = super().__call__(images=images, text=text, **kwargs)
        for name in ("aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask"):
            batch.pop(name, None)
        if "pixel_values" in batch:
            batch["pixel_values"] = torch.as_tensor(np.asarray(batch["pixel_values"]))
        return batch


def accept_pixels_alone(model: nn.Module) -> None:
    """Lets a Mllama be called with ``pixel_values`` and ``input_ids`` alone; weights and other calls stay as they are."""
    image_token = model.config.image_token_index

    def complete(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        pixels = kwargs.get("pixel_values")
        if pixels is None or kwargs.get("aspect_ratio_ids") is not None:
            return None
        return args, {**kwargs, **_one_tile(pixels, kwargs["input_ids"], image_token)}

    model.model.register_forward_pre_hook(complete, with_kwargs=True)


def _one_tile(pixels: Tensor, ids: Tensor, image_token: int) -> dict[str, Tensor]:
    """``pixels`` [B, 1, 1, C, H, W], ``ids`` [B, L], left- or right-padded."""
    batch, images, tiles = pixels.shape[:3]
    if (images, tiles) != (1, 1):
        raise ValueError(f"{images} pictures of {tiles} tiles: this example takes one picture of one tile")
    ones = torch.ones(batch, 1, dtype=torch.long, device=ids.device)
    sees = (ids == image_token).cumsum(dim=1).clamp(max=1)  # [B, L]: the picture's token and all behind it
    return {
        "aspect_ratio_ids": ones,  # the first aspect ratio, 1 x 1
        "aspect_ratio_mask": ones[:, :, None],
        "cross_attention_mask": sees[:, :, None, None],
    }
