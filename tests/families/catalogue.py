"""Which families there are, and which of them are refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.families import hybrids, ordinary, others, windows


@dataclass(frozen=True)
class Family:
    """A way to build a tiny model with its processor.

    Attributes:
        refused: a regular expression of the one line with which a backend for it is refused; empty: it runs.
        pictureless: whether its processor takes prompts without a picture. many: prompts with several.
    """

    name: str
    build: Callable[[], tuple[Any, Any]]
    refused: str = ""
    pictureless: bool = True
    many: bool = True

    def save(self, directory: Path) -> Path:
        """The same checkpoint at each call, as users have theirs on disk."""
        torch.manual_seed(0)
        model, processor = self.build()
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
        return directory

    def saved(self) -> tempfile.TemporaryDirectory[str]:
        """The same in a directory that goes when it is closed."""
        directory: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix=f"{self.name}-")
        self.save(Path(directory.name))
        return directory


ORDINARY = [
    ordinary.qwen2_vl, ordinary.qwen2_5_vl, ordinary.qwen3_vl, ordinary.qwen3_vl_moe, ordinary.internvl, ordinary.smolvlm,
    ordinary.idefics2, ordinary.idefics3, ordinary.llava, ordinary.vipllava, ordinary.llava_next, ordinary.llava_onevision,
    ordinary.pixtral, ordinary.mistral3, others.mllama, others.glm4v, others.glm4v_moe, others.molmo2, others.ovis2,
    others.lighton_ocr, others.paddleocr_vl, others.ernie4_5_vl_moe, others.aria, others.deepseek_vl, others.janus,
    others.emu3, others.chameleon, others.minicpmv4_6, others.qwen2_5_omni, others.video_llama_3,
    windows.gemma3, windows.gemma4, windows.gemma4_shared, windows.cohere2_vision, windows.aya_vision,
    windows.llama4, windows.qwen2_5_vl_window, windows.llava_mistral_window,
    hybrids.qwen3_5, hybrids.qwen3_5_moe, hybrids.lfm2_vl, hybrids.kimi_k25,
]  # fmt: skip
FAMILIES = {
    family.name: family
    for family in [
        *(Family(build.__name__, build) for build in ORDINARY),
        Family("gemma3_mid", partial(windows.gemma3, 44)),
        Family("gemma3_wide", partial(windows.gemma3, 4096)),
        Family("llama4_mid", partial(windows.llama4, 48)),
        Family("llama4_wide", partial(windows.llama4, 4096)),
        Family("paligemma", windows.paligemma, pictureless=False),
        Family("paligemma2", windows.paligemma2, pictureless=False),
        Family("blip2", others.blip2, refused="encoder-decoder"),
        Family("florence2", others.florence2, refused="encoder-decoder"),
        Family("idefics", others.idefics, refused="every token"),
        Family("kosmos2", others.kosmos2, refused="every token"),
        Family("got_ocr2", others.got_ocr2, refused="refuses the prompt"),
    ]
}
"""``_mid``: prompt < window < prompt and answer. ``_wide``: all of it in one window or chunk. Else the window is shorter than the prompt."""
