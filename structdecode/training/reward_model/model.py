"""The network: an image-text model, and one number a token."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from structdecode.backends.transformers.loading import check_processor, find_device, load_model, load_processor
from structdecode.core.errors import ModelError
from structdecode.training.collate import IGNORED
from structdecode.training.reward_model.config import FILE, HEAD, RewardConfig
from structdecode.training.sft.adapters import attached


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


def from_base(
    name: str, *, likelihood: bool = False, language_modelling: float = 0.0, trust_remote_code: bool = False,
    dtype: str = "float32",
) -> tuple[RewardModel, Any]:  # fmt: skip
    """An untrained reward model (on the CPU) on top of an image-text model, and its processor.

    Raises:
        ModelError: it cannot be loaded, or is made in a way that leaves no model under the output layer.
    """
    model, processor = load_model(
        _place_of(name), device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False
    )
    check_processor(processor, name)
    backbone = model.base_model
    if likelihood:
        return RewardModel(model, likelihood=True, language_modelling=language_modelling), processor
    if backbone is model or backbone is model.get_output_embeddings():
        raise ModelError(f"model {name!r}: {type(model).__name__} has no base model without an output layer")
    return RewardModel(backbone), processor


def _place_of(name: str) -> str:
    if name != "pocket":
        return name
    from structdecode.pocket import checkpoint_path

    return str(checkpoint_path())


def save(
    model: RewardModel, processor: Any, config: RewardConfig, directory: str | Path,
    *, extra: Callable[[Path], None] = lambda place: None,
) -> None:  # fmt: skip
    """Writes a new directory, whole or not at all: backbone, processor, head and description.

    Args:
        extra: writes more into it before it has its name.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.backbone.save_pretrained(partial)
    processor.save_pretrained(partial)
    save_file({name: value.contiguous().cpu() for name, value in model.head.state_dict().items()}, partial / HEAD)
    (partial / FILE).write_text(config.text(), encoding="utf-8")
    extra(partial)
    partial.rename(directory)


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
        backbone = wanted.from_pretrained(directory, dtype=kind, use_safetensors=True)
        model = RewardModel(backbone, likelihood=config.likelihood)
        model.head.load_state_dict(weights)
        processor = load_processor(directory)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:300]
        raise ModelError(f"reward model {str(directory)!r}: {first or type(error).__name__}") from error
    return model.to(place).eval(), processor, config


# ------------------------------------------------------------------ what of it is trained


def choose_trained(model: RewardModel, settings: Any) -> None:
    """Freezes what the method leaves alone; of ``lora``, puts adapters on the language model's linear layers.

    Weights that are trained are float32.
    """
    if settings.method != "full":
        model.backbone.requires_grad_(False)
    if settings.method == "lora":
        model.backbone = attached(model.backbone, settings.lora_rank, settings.lora_alpha, settings.lora_dropout)
    if settings.gradient_checkpointing and settings.method != "head":
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged(model: RewardModel) -> RewardModel:
    """The same with adapters added to the weights they stand beside, in place."""
    if hasattr(model.backbone, "merge_and_unload"):
        model.backbone = model.backbone.merge_and_unload()
    return model
