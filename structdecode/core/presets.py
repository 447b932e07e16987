"""Named sets of settings for `structdecode generate --preset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A strategy, a verifier, and settings as `--set` takes them."""

    strategy: str
    verifier: str
    settings: Mapping[str, str]
    source: str


PRESETS = {
    "llava-o1-paper": Preset(
        "stage-beam",
        "self-judge",
        {
            "candidates": "2", "beams": "1", "temperature": "0.6", "top_p": "0.9", "top_k": "0", "max_tokens": "2048",
            "verifier.tournament": "knockout", "verifier.both_orders": "false", "verifier.pre_check": "true",
            "verifier.temperature": "0.6", "verifier.top_p": "0.9", "verifier.max_tokens": "2048",
        },
        "arXiv 2411.10440, section 3.3 and table 3 (beam size 2); sampling from upstream inference/demo",
    ),
}  # fmt: skip
