"""Stage tags as tokens of their own."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from structdecode.core.types import Schema


def add_tags(model: Any, processor: Any, schema: Schema) -> list[str]:
    """Makes each stage tag one token; a new row begins as the mean of the tokens that the tag had been.

    The tags are not *special* to the tokenizer: decoding that leaves special tokens out has to keep them.
    Mllama's input embeddings have a few rows more than its output layer (for the image token); they keep that many
    more, since that is how its configuration is read back.

    Returns:
        The tags that were added; those that were tokens already are not.
    """
    tokenizer = processor.tokenizer
    tags = [tag for stage in schema.stages for tag in (stage.begin, stage.end) if tag]
    before = {tag: tokenizer.encode(tag, add_special_tokens=False) for tag in tags}
    new = [tag for tag in tags if len(before[tag]) > 1]
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    more_inputs = embeddings.num_embeddings - head.out_features if head is not None else 0
    old = [layer.weight.detach().clone() for layer in (embeddings, head) if layer is not None]
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in new])
    if len(tokenizer) > embeddings.num_embeddings - more_inputs:
        grow(model, len(tokenizer))
    with torch.no_grad():
        layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
        for layer, weight in zip(layers, old, strict=True):
            for tag in new:
                row = tokenizer.convert_tokens_to_ids(tag)
                layer.weight[row] = weight[[i for i in before[tag] if i < len(weight)]].mean(dim=0)
    return new


def grow(model: Any, rows: int) -> None:
    """Embeddings and output layer for a number of tokens; what input embeddings had more stays more."""
    head = model.get_output_embeddings()
    more_inputs = model.get_input_embeddings().num_embeddings - head.out_features if head is not None else 0
    model.resize_token_embeddings(rows, mean_resizing=False)
    if more_inputs > 0:
        model.set_input_embeddings(_grown(model.get_input_embeddings(), rows + more_inputs))


def _grown(embeddings: nn.Embedding, rows: int) -> nn.Embedding:
    """The same with more rows at the end, zero."""
    old = embeddings.weight
    grown = nn.Embedding(rows, old.shape[1], embeddings.padding_idx, dtype=old.dtype, device=old.device)
    with torch.no_grad():
        grown.weight.zero_()
        grown.weight[: len(old)] = old
    return grown
