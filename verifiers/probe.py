"""A linear probe on the generator's own hidden states; its training is in `structdecode.training.probe`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ModelError, PromptError
from structdecode.core.lookup import find_checkpoint
from structdecode.core.protocols import ForcedText, Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers.trained import TrainedConfig

FILE, WEIGHTS = "probe.json", "probe.safetensors"
FORMAT = "structdecode-probe/1"
LEAST_GATE = 1e-6
"""The least that the gates' sum is taken for."""

States = Mapping[str, NDArray[np.float32]]
"""[D] by stage, D = layers x hidden size: the states of all layers at the stage's last token, one behind the other."""


@dataclass(frozen=True)
class ProbeConfig(TrainedConfig):
    """The part of a probe that is not weights.

    Attributes:
        separator: of the schema, between a stage and the begin tag of the next one.
        layers: whose states are read, numbered as transformers' ``hidden_states``. width: the hidden size.
        base_digest: of the checkpoint's directory; empty for a name on the hub.
    """

    separator: str = ""
    layers: tuple[int, ...] = ()
    width: int = 0
    base_digest: str = ""
    kind: ClassVar[str] = "probe"
    file: ClassVar[str] = FILE
    format: ClassVar[str] = FORMAT

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        found = super().load(directory)
        return replace(found, layers=tuple(found.layers))


@dataclass(frozen=True)
class GatedLinear:
    """Two numbers of each stage's states, a gate and a value; the log-odds are the values' mean, weighed by the gates.

    Attributes:
        weight: [2, D], the gate's row first. bias: [2].
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def contributions(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each stage adds to the log-odds. [S, D] -> [S]"""
        gates, values = (states.astype(np.float64) @ self.weight.T + self.bias).T
        opened = 1 / (1 + np.exp(np.minimum(-gates, 700.0)))
        found: NDArray[np.float64] = opened * values / max(float(opened.sum()), LEAST_GATE)
        return found

    @classmethod
    def load(cls, directory: str | Path, config: ProbeConfig) -> GatedLinear:
        """Raises `ModelError` where the weights are not there, damaged, or none that the configuration describes."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        place = Path(directory) / WEIGHTS
        try:
            found = load_file(place)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"probe {str(directory)!r}: {WEIGHTS}: {error}") from error
        wanted = {"weight": (2, len(config.layers) * config.width), "bias": (2,)}
        shapes = {name: tensor.shape for name, tensor in found.items()}
        if shapes != wanted or not all(np.isfinite(tensor).all() for tensor in found.values()):
            raise ModelError(f"probe {str(directory)!r}: {WEIGHTS}: damaged: not finite numbers of the shapes {wanted}")
        return cls(found["weight"].astype(np.float64), found["bias"].astype(np.float64))


@dataclass(frozen=True)
class StageReader:
    """Reads states at the ends of stages: those that the search's spans hold, else behind the prompt anew."""

    config: ProbeConfig

    async def read(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[States | str]:
        """Of each candidate; of one that has none why not.

        Args:
            prompt: as the model was asked, the schema's instruction included.

        Raises:
            ConfigError: the model has no such layers.
        """
        found = [self._unknown(candidate) or self._held(candidate) for candidate in candidates]
        left = [candidate for candidate, known in zip(candidates, found, strict=True) if known is None]
        read = iter(await self._read(prompt, left, model) if left else ())
        return [next(read) if known is None else known for known in found]

    def _unknown(self, candidate: Candidate) -> str | None:
        if not candidate.spans:
            return "nothing is written yet"
        strange = next((stage for stage in candidate.stages if stage not in self.config.names), None)
        return strange and f"the probe was trained on {', '.join(self.config.names)}, not on {strange}"

    def _held(self, candidate: Candidate) -> States | str | None:
        """Of a candidate whose spans have the states, since the strategy asked for these layers."""
        ends = {span.stage: span for span in candidate.spans}
        layers = self.config.layers
        if not all(set(layers) <= set(span.hidden_layers) for span in ends.values()):
            return None
        return self._joined(
            {
                stage: span.hidden_states[[span.hidden_layers.index(layer) for layer in layers]]
                for stage, span in ends.items()
                if span.hidden_states is not None
            }
        )

    async def _read(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[States | str]:
        pieces = [self._pieces(candidate) for candidate in candidates]
        answers = [[text for _, text in each] for each in pieces]
        try:
            read = await model.read(prompt, answers, hidden_layers=self.config.layers)
        except PromptError as error:
            if len(candidates) == 1:
                return [str(error)]
            return [(await self._read(prompt, [candidate], model))[0] for candidate in candidates]
        return [
            self._joined({stage: span.hidden_states for (stage, _), span in zip(each, spans, strict=True)})
            for each, spans in zip(pieces, read, strict=True)
        ]

    def _pieces(self, candidate: Candidate) -> list[tuple[str, ForcedText]]:
        """The search's own tokens by span, each with its stage's name; of a candidate that has none its text.

        A stage's begin tag is a piece of its own then: a search puts it there as tokens of its own.
        """
        if all(span.all_ids for span in candidate.spans):
            return [(span.stage, span.all_ids) for span in candidate.spans]
        pieces: list[tuple[str, ForcedText]] = []
        for stage, text in candidate.stages.items():
            begin, end = self.config.tags(stage)
            written = f" {text} {end}" if stage != candidate.open_stage else f" {text}"
            pieces += [(stage, self.config.separator * bool(pieces) + begin), (stage, written)]
        return pieces

    def _joined(self, ends: Mapping[str, NDArray[np.float32] | None]) -> States | str:
        """Layers one behind the other."""
        for states in ends.values():
            if states is None:
                return "the model gives no hidden states"
            if states.shape[1] != self.config.width:
                return (
                    f"the probe reads hidden states of width {self.config.width}; this model's have {states.shape[1]}"
                )
        return {stage: states.reshape(-1) for stage, states in ends.items() if states is not None}


@dataclass(frozen=True)
class Probe:
    """A linear gated probe on the hidden states of the model that searches (ELHSR, Guo et al. 2025, arXiv 2505.12225).

    Of the states h_t at the end of each stage, [g_t, r_t] = W h_t + b; the score is sigmoid(sum s_t r_t / sum s_t) with
    s_t = sigmoid(g_t), over the stages that a candidate has. `structdecode train-verifier --recipe probe` makes one
    (docs/training/probe.md). It holds for the model it was trained on.

    What stages add to the log-odds is in the details. Nothing is computed where the strategy asked for these layers
    (``decoder.extend(..., hidden_layers=probe.hidden_layers)``); else the answer is read behind the search's own prompt,
    of one that has grown its new stage alone.

    Attributes:
        path: the directory.
        digest: of weights and description: another training at the same path is another verifier.
    """

    path: str
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Before any work is done: a wrong path should not cost a search."""
        check_settings(self)
        _ = self._weights
        object.__setattr__(self, "digest", checkpoint_digest(find_checkpoint(self.path)))

    @cached_property
    def config(self) -> ProbeConfig:
        return ProbeConfig.load(find_checkpoint(self.path))

    @cached_property
    def _weights(self) -> GatedLinear:
        return GatedLinear.load(find_checkpoint(self.path), self.config)

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """The layers whose states it reads."""
        return self.config.layers

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        asked = replace(prompt, question=self.config.asked(prompt))
        found = await StageReader(self.config).read(asked, candidates, model)
        noise = model.resolution * max(1.0, float(np.linalg.norm(self._weights.weight)))
        return [Score.unscored(states) if isinstance(states, str) else self._score(states, noise) for states in found]

    def _score(self, states: States, noise: float) -> Score:
        added = self._weights.contributions(np.stack(list(states.values())))
        log_odds = math.fsum(added)
        value = 1 / (1 + math.exp(min(-log_odds, 700.0)))
        details = {"log_odds": log_odds, "contributions": dict(zip(states, added.tolist(), strict=True))}
        return Score(value, f"log-odds {log_odds:+.2f}", details, resolution=noise)
