"""The network: an image-text model without its output layer, and one number a token."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from structdecode.backends.transformers.loading import check_processor, load_model
from structdecode.errors import ConfigError, ModelError
from structdecode.training.collate import IGNORED
from structdecode.training.reward_model.config import FILE, HEAD, RewardConfig


class RewardModel(nn.Module):
    """One forward pass over prompt and answer gives a value for every beginning of the answer.

    Causal attention sees to it that a value depends on nothing behind it; so it is the same for a candidate that a
    search has just begun and for the finished one.

    Args:
        backbone: of transformers; its forward gives ``last_hidden_state`` [B, L, H].
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config  # Trainer looks for it
        width = backbone.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(
        self, labels: Tensor | None = None, kinds: Any = None, rows: Any = None, **inputs: Any
    ) -> dict[str, Tensor]:
        """``logits`` [B, L] of "all is right up to here"; with ``labels`` [B, L] also the mean ``loss`` in nats.

        ``kinds`` and ``rows`` of `StepCollator`'s batches are passed over.
        """
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state  # [B, L, H]
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.head(hidden.float()).squeeze(-1)
        if labels is None:
            return {"logits": logits}
        known = labels != IGNORED
        return {"loss": binary_cross_entropy_with_logits(logits[known], labels[known]), "logits": logits}


def from_base(name: str, *, trust_remote_code: bool = False, dtype: str = "float32") -> tuple[RewardModel, Any]:
    """An untrained reward model (on the CPU) on top of an image-text model, and its processor.

    Raises:
        ModelError: it cannot be loaded, or is made in a way that leaves no model under the output layer.
    """
    model, processor = load_model(
        _place_of(name), device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=False
    )
    check_processor(processor, name)
    backbone = model.base_model
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
    from transformers import AutoModel, AutoProcessor

    config, directory = RewardConfig.load(directory), Path(directory)
    place = _device(device)
    try:
        weights = load_file(directory / HEAD)
        kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
        backbone = AutoModel.from_pretrained(directory, dtype=kind, use_safetensors=True)
        model = RewardModel(backbone)
        model.head.load_state_dict(weights)
        processor = AutoProcessor.from_pretrained(directory)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:300]
        raise ModelError(f"reward model {str(directory)!r}: {first or type(error).__name__}") from error
    return model.to(place).eval(), processor, config


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return device


# ------------------------------------------------------------------ what of it is trained


def choose_trained(model: RewardModel, settings: Any) -> None:
    """Freezes what the method leaves alone; of ``lora``, puts adapters on the language model's linear layers.

    Weights that are trained are float32.
    """
    if settings.method != "full":
        model.backbone.requires_grad_(False)
    if settings.method == "lora":
        model.backbone = _with_adapters(model.backbone, settings)
    if settings.gradient_checkpointing and settings.method != "head":
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _with_adapters(backbone: Any, settings: Any) -> Any:
    from structdecode.errors import MissingExtraError

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    from structdecode.backends.transformers.vision import vision_tower

    tower = vision_tower(backbone)
    inside = set(tower.modules()) if tower is not None else set()
    targets = [
        name for name, module in backbone.named_modules() if isinstance(module, nn.Linear) and module not in inside
    ]
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=targets,
    )  # fmt: skip
    return get_peft_model(backbone, config)


def merged(model: RewardModel) -> RewardModel:
    """The same with adapters added to the weights they stand beside, in place."""
    if hasattr(model.backbone, "merge_and_unload"):
        model.backbone = model.backbone.merge_and_unload()
    return model
