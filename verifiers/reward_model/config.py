"""What a reward model's directory says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from structdecode.verifiers.trained import TrainedConfig

FILE, HEAD = "reward_model.json", "reward_head.safetensors"
FORMAT = "structdecode-reward-model/1"

SEPARATOR = " "
"""Between two stages, in training and in scoring, whatever the search itself put there. No common tokenizer joins a
blank with the tag before it (Llama 3's joins ``>`` with line breaks), so a stage ends with one and the same token
whether or not another one follows."""


@dataclass(frozen=True)
class RewardConfig(TrainedConfig):
    """The part of a reward model that is not weights.

    Attributes:
        likelihood: whether the model's own log-probabilities are part of a value.
    """

    likelihood: bool = False
    kind: ClassVar[str] = "reward model"
    file: ClassVar[str] = FILE
    format: ClassVar[str] = FORMAT

    def written(self, stage: str, text: str, *, closed: bool = True) -> str:
        """A stage as the rows have it, with its tags; without the end tag while it is open."""
        begin, end = self.tags(stage)
        return f"{begin} {text} {end if closed else ''}".strip()
