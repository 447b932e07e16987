"""Loads a checkpoint and says in one line what is wrong with one that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils import logging

from structdecode.backends.transformers.checkpoint import (
    check_directory,
    check_missing,
    check_size,
    check_vocabulary,
    kept_report,
    mismatch,
)
from structdecode.backends.transformers.templates import check_template
from structdecode.backends.transformers.text_only import TextProcessor
from structdecode.core.errors import ConfigError, ModelError, StructdecodeError
from structdecode.core.lookup import find_checkpoint


def load_model(
    name: str,
    *,
    device: str | None,
    dtype: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    takes_images: bool = True,
    native: bool = False,
    with_output: bool = True,
    processor_options: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Model (in eval mode, on its device) and processor of a directory or hub name.

    Args:
        takes_images: whether it is an image-text model; else one for texts alone, with a `TextProcessor`.
        native: whether transformers' own class of the model type will do where the checkpoint brings code of its own,
            which is left alone then, unless it is trusted.
        processor_options: of its ``from_pretrained``.
        with_output: whether the checkpoint has to have the output layer: one whose hidden states alone are wanted may
            lack it, and has random numbers there then.

    Raises:
        ModelError: not there, no processor, text only, not safetensors, or code of its own.
        ConfigError: device or dtype is unknown.
    """
    name = find_checkpoint(name)
    directory = Path(name)
    if directory.is_dir():
        check_directory(directory, trust_remote_code or native, allow_pickle, takes_images)
    elif name.startswith((".", "/", "~")) or directory.exists():
        raise ModelError(f"model {name!r}: no such directory")
    place = find_device(device)
    kind = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    said: list[str] = []
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        if directory.is_dir():
            check_size(config, directory, kind)
        if takes_images:
            processor = load_processor(name, trust_remote_code=trust_remote_code, **(processor_options or {}))
        else:
            processor = TextProcessor(AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code))
        with quiet_loading() as said:
            model, report = kind.from_pretrained(
                name, config=config, dtype=_dtype(dtype, place), trust_remote_code=trust_remote_code,
                use_safetensors=None if allow_pickle else True, output_loading_info=True,
            )  # fmt: skip
    except StructdecodeError:
        raise
    except Exception as error:  # a config that fits no model raises anything from KeyError to ZeroDivisionError
        raise ModelError(f"model {name!r}: {mismatch(said) or _first_line(error)}") from error
    check_missing(report if with_output else _without_output(report, model), name)
    check_vocabulary(processor, model, name)
    return model.to(place).eval(), processor


def _without_output(report: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The report without the weights of the output layer, and without what has no place: another head's."""
    output = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    missing = [key for key in report["missing_keys"] if key.rpartition(".")[0] != output]
    return {**report, "missing_keys": missing, "unexpected_keys": []}


@contextmanager
def quiet_loading() -> Iterator[list[str]]:
    """No progress bar, and transformers' own report of a checkpoint's weights in the list instead of on stderr."""
    progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with kept_report() as said:
            yield said
    finally:
        if progress:
            logging.enable_progress_bar()


def load_processor(name: str | Path, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """The processor of a directory or hub name, preparing pictures with PIL where it can do that.

    transformers would choose torchvision wherever that is installed, whose pixels differ in the last bits: then the
    same question could have another answer on the next machine. Some processors know no other way.

    Raises:
        ModelError: there is none, or it needs torchvision and that is not installed.
    """
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
        if getattr(getattr(processor, "image_processor", None), "backend", None) == "torchvision":
            processor.image_processor = AutoImageProcessor.from_pretrained(
                name, trust_remote_code=trust_remote_code, backend="pil", **options
            )
        return processor
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError) as error:
        if "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            raise ModelError(
                f"model {str(name)!r}: its processor needs torchvision: pip install 'structdecode[vision]'"
            ) from error
        raise ModelError(f"model {str(name)!r}: {_first_line(error)}") from error


def check_processor(processor: Any, name: str) -> None:
    """Raises `ModelError` unless the processor takes pictures (or is there for texts alone) and has a chat template."""
    if getattr(processor, "image_processor", None) is None and not isinstance(processor, TextProcessor):
        raise ModelError(f"model {name!r}: its processor takes no pictures (a text-only model?)")
    tokenizer = getattr(processor, "tokenizer", None)
    if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
        raise ModelError(f"model {name!r}: no chat template: add chat_template.jinja, or use the instruct version")
    check_template(processor, name)


def find_device(name: str | None) -> torch.device:
    """None is CUDA where there is one. Raises `ConfigError` where it is not there or not known."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r}: {_first_line(error)}") from None
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    """``auto`` is the checkpoint's own on an accelerator, and float32 on a CPU, where results are to be exact."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype must be auto, float32, bfloat16 or float16, not {name!r}")
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
