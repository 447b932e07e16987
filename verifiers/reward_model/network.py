"""The network of a reward model: an image-text model with a head that reads a value at any token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from structdecode.backends.transformers.checkpoint import check_missing
from structdecode.backends.transformers.collate import IGNORED
from structdecode.backends.transformers.loading import find_device, load_processor, quiet_loading
from structdecode.core.errors import ModelError
from structdecode.verifiers.reward_model.config import HEAD, RewardConfig


class RewardModel(nn.Module):
    """One forward pass over prompt and answer gives a value for every beginning of the answer.

    Causal attention sees to it that a value depends on nothing behind it; so it is the same for a candidate that a
    search has just begun and for the finished one.

    With ``likelihood`` a value is the sum of two log-odds: those that the model itself gives to what is written (from
    its output layer: the probability of all of the answer's tokens so far), times a learned scale, and the head's. So
    an untrained one ranks as the model's own log-probabilities do, and training has to find only what they miss. (That
    a policy's log-probabilities make a process reward: Yuan et al. 2024, arXiv 2412.01981.)

    In training it may also go on learning to write what is right (``language_modelling``, the weight of that loss), as
    verifiers learn better that way (Cobbe et al. 2021, arXiv 2110.14168, section 4.2).

    Args:
        backbone: of transformers: with its output layer where ``likelihood`` is wanted, else without.
    """

    def __init__(self, backbone: Any, *, likelihood: bool = False, language_modelling: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.likelihood, self.language_modelling = backbone, likelihood, language_modelling
        self.config = backbone.config  # Trainer looks for it
        self.head = Head(backbone.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        return self.head.value.weight.device

    def forward(
        self,
        labels: Tensor | None = None,
        kinds: Any = None,
        rows: Any = None,
        answers: Tensor | None = None,
        **inputs: Any,
    ) -> dict[str, Tensor]:
        """``logits`` [B, L] of "all is right up to here"; with ``labels`` [B, L] also the mean ``loss`` in nats.

        Args:
            answers: [B, L] whether a token is the answer's. kinds, rows: of `StepCollator`'s batches, passed over.
        """
        core = self.backbone.get_base_model() if hasattr(self.backbone, "peft_config") else self.backbone
        bare = core.base_model if self.likelihood else core
        hidden = bare(**inputs, use_cache=False).last_hidden_state  # [B, L, H]
        own = written = None
        if self.likelihood and answers is not None:
            written = _log_probs(core.get_output_embeddings(), hidden, inputs["input_ids"], answers)
            own = _log_odds(written)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.head(hidden.float(), own)
        if labels is None:
            return {"logits": logits}
        known = labels != IGNORED
        loss = binary_cross_entropy_with_logits(logits[known], labels[known])
        if self.training and self.language_modelling and written is not None and answers is not None:
            right = answers & right_so_far(labels)
            loss = loss - self.language_modelling * written[right].sum() / right.sum().clamp(min=1)
        return {"loss": loss, "logits": logits}


class Head(nn.Module):
    """Linear in the last hidden state and in the model's own log-odds; in float32. Untrained it is the latter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, 1, dtype=torch.float32)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float32))
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, hidden: Tensor, own: Tensor | None) -> Tensor:
        """[B, L] from [B, L, H] and [B, L] or nothing."""
        values: Tensor = self.value(hidden).squeeze(-1)
        return values if own is None else values + self.scale * own


def right_so_far(labels: Tensor) -> Tensor:
    """[B, L] whether a token is in front of the last good step that no bad one precedes, or ends it.

    Args:
        labels: [B, L] 1 or 0 where a step ends, else `IGNORED`.
    """
    unspoilt = (labels == 0).cumsum(dim=1) == 0
    good = (labels == 1) & unspoilt
    return good.flip(1).cumsum(dim=1).flip(1) > 0


def _log_probs(output: nn.Module, hidden: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
    """[B, L] log-probability of each of the answer's tokens, in nats; 0 elsewhere."""
    asked = answers[:, 1:]
    logits = output(hidden[:, :-1][asked]).float()  # [tokens of answers, vocabulary]
    found = logits.log_softmax(dim=-1).gather(-1, ids[:, 1:][asked].unsqueeze(-1)).squeeze(-1)
    steps = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    steps[:, 1:][asked] = found
    return steps


def _log_odds(written: Tensor) -> Tensor:
    """[B, L] log p/(1-p), where p is the probability of the answer's tokens up to each place.

    p is bounded by 0.99, near which log-odds have no use and gradients no bound.
    """
    total = written.cumsum(dim=1).clamp(max=math.log(0.99))
    return total - torch.log(-torch.expm1(total))


def load(
    directory: str | Path, *, device: str | None = None, dtype: str = "auto"
) -> tuple[RewardModel, Any, RewardConfig]:
    """Reward model (in eval mode, on its device), processor and description of a directory.

    Args:
        device: default: CUDA where there is one. dtype: of the backbone; ``auto``: float32 on a CPU, else its own.

    Raises:
        ConfigError: no reward model there, or an unknown device or dtype.
        ModelError: of another version, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForImageTextToText

    config, directory = RewardConfig.load(directory), Path(directory)
    place = find_device(device)
    try:
        weights = load_file(directory / HEAD)
        kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
        wanted = AutoModelForImageTextToText if config.likelihood else AutoModel
        with quiet_loading():
            backbone, report = wanted.from_pretrained(
                directory, dtype=kind, use_safetensors=True, output_loading_info=True
            )
        check_missing(report, str(directory))
        model = RewardModel(backbone, likelihood=config.likelihood)
        model.head.load_state_dict(weights)
        processor = load_processor(directory)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:300]
        raise ModelError(f"reward model {str(directory)!r}: {first or type(error).__name__}") from error
    return model.to(place).eval(), processor, config
