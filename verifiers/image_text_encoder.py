"""The two encoders behind `image-text`, in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from structdecode.backends.transformers.checkpoint import check_missing
from structdecode.backends.transformers.loading import find_device, load_processor, quiet_loading
from structdecode.core.budget import Usage
from structdecode.core.errors import ModelError
from structdecode.core.flops import ModelCost
from structdecode.core.images import Picture
from structdecode.core.resolution import resolution

PICTURES = 64
"""Pictures whose embeddings are kept, the least recently used forgotten first."""


@dataclass(frozen=True)
class Similarities:
    """Attributes:
    values: of each text the cosine similarity to the picture that it fits best. cut: texts that were longer than the context.
    resolution: differences of values up to this are noise.
    """

    values: tuple[float, ...]
    cut: frozenset[str]
    resolution: float


class Encoder:
    """A dual encoder with its processor, on its device."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.image_processor = model, processor.tokenizer, processor.image_processor
        self.context = int(model.config.text_config.max_position_embeddings)
        self.cost = _cost(model)
        self._pictures: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def similarities(
        self, texts: Sequence[str], pictures: Sequence[Picture], charge: Callable[[Usage], None]
    ) -> Similarities:
        """``charge`` is asked right before the work; what it raises is raised, and nothing is done."""
        with self._lock:
            ids, cut = self._encoded(texts)
            new = {picture.digest: picture for picture in pictures if picture.digest not in self._pictures}
            charge(self._usage(ids, list(new.values())))
            seen = self._seen(pictures, list(new.values()))  # [P, D]
            with torch.inference_mode():
                written = normalize(self.model.get_text_features(**ids).pooler_output.float(), dim=-1)  # [N, D]
            best = (written @ seen.T).max(dim=-1).values
        return Similarities(tuple(best.tolist()), cut, resolution(self.model.dtype))

    def _encoded(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], frozenset[str]]:
        """Padded to the whole context, as SigLIP was trained; CLIP's result is the same with any padding."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts))["input_ids"]]
        batch = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        )
        cut = frozenset(text for text, length in zip(texts, lengths, strict=True) if length > self.context)
        return {name: value.to(self.model.device) for name, value in batch.items()}, cut

    def _usage(self, ids: dict[str, Tensor], new: Sequence[Picture]) -> Usage:
        usage = Usage(prefilled_tokens=ids["input_ids"].numel(), images_encoded=len(new), model_calls=1)
        return replace(usage, flops=self.cost.of(usage.as_dict(), [picture.image.size for picture in new]))

    @torch.inference_mode()
    def _seen(self, pictures: Sequence[Picture], new: Sequence[Picture]) -> Tensor:
        """Embeddings [P, D] of length 1."""
        if new:
            pixels = self.image_processor(images=[picture.image for picture in new], return_tensors="pt")
            placed = pixels["pixel_values"].to(self.model.device, self.model.dtype)
            found = normalize(self.model.get_image_features(pixel_values=placed).pooler_output.float(), dim=-1)
            self._pictures.update(zip((picture.digest for picture in new), found, strict=True))
        for picture in pictures:
            self._pictures.move_to_end(picture.digest)
        seen = torch.stack([self._pictures[picture.digest] for picture in pictures])
        while len(self._pictures) > PICTURES:
            self._pictures.popitem(last=False)
        return seen


def _cost(model: Any) -> ModelCost:
    """By the rule of `structdecode.core.flops`; embeddings are look-ups."""
    text, vision = model.text_model, model.vision_model
    looked_up = sum(
        p.numel() for module in text.modules() if isinstance(module, torch.nn.Embedding) for p in module.parameters()
    )
    per_token = 2.0 * (sum(p.numel() for p in text.parameters()) - looked_up)
    config = model.config.vision_config
    patches = (config.image_size // config.patch_size) ** 2
    return ModelCost(per_token, 2.0 * sum(p.numel() for p in vision.parameters()), config.patch_size, patches)


def load(directory: str, device: str | None = None, dtype: str = "auto") -> Encoder:
    """The dual encoder in a directory.

    Raises:
        ConfigError: an unknown device. ModelError: damaged, or no dual encoder of text and pictures.
    """
    from transformers import AutoModel

    place = find_device(device)
    kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
    try:
        with quiet_loading():
            model, report = AutoModel.from_pretrained(
                directory, dtype=kind, use_safetensors=True, output_loading_info=True
            )
        check_missing(report, directory)
        if not all(
            hasattr(model, name) for name in ("get_text_features", "get_image_features", "text_model", "vision_model")
        ):
            raise ModelError(f"image-text: {directory!r} holds a {type(model).__name__}, not a CLIP or SigLIP")
        return Encoder(model.to(place).eval(), load_processor(directory))
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:300]
        raise ModelError(f"image-text: {directory!r}: {first or type(error).__name__}") from error
