"""Reads a reward model's values of candidates, stage by stage, on the engine that searches run on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.loading import load_model
from structdecode.core.errors import ModelError, PromptError
from structdecode.core.protocols import Model
from structdecode.core.types import Candidate, Prompt, Span
from structdecode.verifiers.reward_model.config import HEAD, SEPARATOR, RewardConfig

Values = list[tuple[str, float]]
"""(stage, probability that all is right up to its end) of a candidate, in order."""

SUREST = math.log(0.99)
"""What the model's own log-probability of an answer is bounded by, as in training."""


class ValueReader:
    """A reward model in memory: a model on the engine, and a head that reads its last hidden state at stage ends."""

    def __init__(self, backend: TransformersBackend, head: dict[str, np.ndarray], config: RewardConfig) -> None:
        self.backend, self.config = backend, config
        self._weight, self._bias = head["value.weight"][0].astype(np.float64), float(head["value.bias"][0])
        self._scale = float(head["scale"]) if config.likelihood else 0.0

    async def values(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Values | str]:
        """Of each candidate; of one that has none why not. What an earlier call of the search read is not read again."""
        asked = Prompt(self.config.asked(prompt), prompt.images, prompt.history)
        unknown = [self._unknown(candidate) for candidate in candidates]
        known = [candidate for candidate, reason in zip(candidates, unknown, strict=True) if not reason]
        found = iter(await self._read(asked, known, model))
        return [reason or next(found) for reason in unknown]

    async def _read(self, asked: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Values | str]:
        pieces = [self._pieces(candidate) for candidate in candidates]
        own = model.on(self.backend)
        try:
            spans = await own.read(asked, pieces, hidden_layers=[-1])
        except PromptError as error:
            if len(candidates) == 1:
                return [str(error)]
            return [(await self._read(asked, [candidate], model))[0] for candidate in candidates]
        return [self._of_stages(candidate, read) for candidate, read in zip(candidates, spans, strict=True)]

    def _pieces(self, candidate: Candidate) -> list[tuple[int, ...]]:
        """Stages as tokens, each with what stands before it."""
        texts = [
            self.config.written(stage, text, closed=stage != candidate.open_stage)
            for stage, text in candidate.stages.items()
        ]
        return self.backend.codec.pieces([SEPARATOR * bool(at) + text for at, text in enumerate(texts)])

    def _of_stages(self, candidate: Candidate, spans: Sequence[Span]) -> Values:
        values, written = [], 0.0
        for stage, span in zip(candidate.stages, spans, strict=True):
            assert span.hidden_states is not None
            written = min(written + sum(span.log_probs), 0.0)
            log_odds = float(span.hidden_states[0].astype(np.float64) @ self._weight) + self._bias
            values.append((stage, _sigmoid(log_odds + self._scale * _log_odds(written))))
        return values

    def _unknown(self, candidate: Candidate) -> str:
        if not candidate.spans:
            return "nothing is written yet"
        strange = next((stage for stage in candidate.stages if stage not in self.config.names), None)
        if strange is None:
            return ""
        return f"the reward model was trained on {', '.join(self.config.names)}, not on {strange}"


def _log_odds(written: float) -> float:
    """Log p/(1-p) of a probability's logarithm, as `network` has it in training."""
    bounded = min(written, SUREST)
    return bounded - math.log(-math.expm1(bounded))


def _sigmoid(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))


def load(directory: str | Path, device: str | None = None, dtype: str = "auto") -> ValueReader:
    """The reward model in a directory.

    Raises:
        ConfigError: no reward model there, or an unknown device or dtype.
        ModelError: of another version, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config, path = RewardConfig.load(directory), Path(directory)
    try:
        head = load_file(path / HEAD)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"reward model {str(directory)!r}: {HEAD}: {error}") from error
    model, processor = load_model(
        str(path),
        device=device,
        dtype=dtype,
        trust_remote_code=False,
        allow_pickle=False,
        with_output=config.likelihood,
    )
    return ValueReader(TransformersBackend(model, processor, str(directory), check=False), head, config)
