"""Named sets of settings for `structdecode generate --preset`, harnesses and cells of a study: the package's, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from structdecode.core.declared import read_declared
from structdecode.core.errors import UnknownNameError
from structdecode.core.reading import read_document


@dataclass(frozen=True)
class Preset:
    """A search under a name.

    Attributes:
        strategy: its name or place. verifier: as `structdecode.core.settings.verifier_from` reads it.
        settings: of the strategy; ``verifier.key`` of the verifier.
        about: where it comes from, in one line.
    """

    strategy: str
    verifier: str | Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


PRESETS = {
    "llava-o1-paper": Preset(
        "stage-beam",
        "self-judge",
        {
            "candidates": 2, "beams": 1, "temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 2048,
            "verifier.tournament": "knockout", "verifier.both_orders": False, "verifier.pre_check": True,
            "verifier.temperature": 0.6, "verifier.top_p": 0.9, "verifier.max_tokens": 2048,
        },
        "arXiv 2411.10440, section 3.3 and table 3 (beam size 2); sampling from upstream inference/demo",
    ),
}  # fmt: skip


def load_preset(name: str) -> Preset:
    """One of the package's by its name, or one from a ``.yaml`` or ``.json`` file.

    Raises:
        ConfigError: no such preset, or a key or value in the file that makes no sense.
    """
    if name.endswith((".yaml", ".yml", ".json")):
        return read_declared(Preset, read_document(name), name, "preset")
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
