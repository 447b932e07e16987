"""Logits to probabilities to tokens, as transformers defines temperature, top-k and top-p. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from structdecode.core.types import Sampling


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Temperature, then top-k, then top-p (the order of transformers' `generate`). [B, V] -> [B, V], -inf where cut."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]  # [B, 1]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        tail = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p  # [B, V]
        tail[:, -1] = False
        logits = logits.masked_fill(tail.scatter(1, order, tail), -torch.inf)
    return logits


def uniforms(generators: Sequence[np.random.Generator], steps: int, device: torch.device) -> Tensor:
    """What the next steps draw with, each row's from its own generator: the same in one go or several. [B, steps]"""
    return torch.from_numpy(np.stack([g.random(steps) for g in generators])).to(device)


def draw(logits: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row, by the inverse of the distribution function at ``uniform`` [B]; and its log-probability there.

    [B, V] -> [B], [B]
    """
    if sampling.greedy:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(tokens, dtype=torch.float)
    probabilities = filtered(logits, sampling).softmax(-1)  # [B, V]
    cumulative = probabilities.double().cumsum(-1)
    points = uniform[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return tokens, probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()


def token_statistics(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row's token: log-probability under the model itself, and KL(uniform || model) over the tokens that the model
    allows. [B, V], [B] -> [B], [B]
    """
    log_probs = logits.log_softmax(-1)
    masked = log_probs == -torch.inf  # some models forbid themselves tokens of pictures
    allowed = logits.shape[-1] - masked.sum(-1)
    certainty = -log_probs.masked_fill(masked, 0).sum(-1) / allowed - allowed.log()
    return log_probs.gather(-1, tokens[:, None]).squeeze(-1), certainty


def text_log_probs(ids: Sequence[int], first: Tensor, rest: Tensor | None) -> list[float]:
    """Log-probability of each token of a text, from the logits [V] before it and [T - 1, V] behind all but its last."""
    logits = first[None] if rest is None else torch.cat([first[None], rest])
    return logits.float().log_softmax(-1)[range(len(ids)), list(ids)].tolist() if ids else []
