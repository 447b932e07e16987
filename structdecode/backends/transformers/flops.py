"""FLOPs of a model of transformers."""

from __future__ import annotations

from typing import Any

from structdecode.backends.transformers.vision import vision_tower
from structdecode.core.flops import ModelCost


def model_cost(model: Any) -> ModelCost:
    """Counted over the text model's and the vision tower's parameters."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    text = {id(p): p.numel() for p in model.get_decoder().parameters()}
    for parameter in embedding.parameters():
        text.pop(id(parameter), None)
    for parameter in head.parameters() if head is not None else ():
        text[id(parameter)] = parameter.numel()  # where it is tied to the embedding it still is a product
    tower = vision_tower(model)
    vision = getattr(model.config, "vision_config", None)
    if tower is None or vision is None:
        return ModelCost(2.0 * sum(text.values()))
    patch = _side(getattr(vision, "patch_size", 14))
    size = _side(getattr(vision, "image_size", None))
    tiles = int(getattr(vision, "max_num_tiles", 1))
    patches = (size // patch) ** 2 * tiles if isinstance(size, int) else None
    return ModelCost(2.0 * sum(text.values()), 2.0 * sum(p.numel() for p in tower.parameters()), patch, patches)


def _side(size: Any) -> Any:
    """Of a square in pixels, which some configurations give as height and width."""
    return size[0] if isinstance(size, list | tuple) else size
