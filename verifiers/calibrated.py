"""A verifier's scores as probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from structdecode.core.calibration import Calibration, VerifierIdentity
from structdecode.core.digests import file_digest
from structdecode.core.labels import label_of
from structdecode.core.plain import plain
from structdecode.core.protocols import Model, Verifier
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Calibrated:
    """Another verifier's scores as probabilities of a right final answer, by what `structdecode verifier fit` wrote.

    The map rises strictly, so candidates keep the order of the raw scores, ties included; the raw score is in the
    details. A candidate of a stage that was not fitted is unscored.

    Attributes:
        verifier: whose scores. fit: the file.
        digest: of the file: another fit at the same path is another verifier.

    Raises:
        ConfigError: the file cannot be read, is damaged, or was fitted on another verifier or other settings.
    """

    verifier: Verifier
    fit: str
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Before any work is done: a wrong file should not cost a search."""
        check_settings(self)
        self._calibration.check(VerifierIdentity(label_of(self.verifier), plain(self.verifier)), self.fit)
        object.__setattr__(self, "digest", file_digest(Path(self.fit)))

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration.load(self.fit)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        raw = await self.verifier.score(prompt, candidates, model)
        return [
            self._calibrated(score, candidate.last_stage, model.resolution)
            for score, candidate in zip(raw, candidates, strict=True)
        ]

    def _calibrated(self, score: Score, stage: str, noise: float) -> Score:
        """``noise``: the score's resolution where the verifier does not say it."""
        if score.value is None:
            return score
        found = self._calibration.map_of(stage)
        if found is None:
            return Score.unscored(f"the calibration has nothing for stage {stage!r}")
        resolution = found.noise(score.value, noise if score.resolution is None else score.resolution)
        details = {**score.details, "raw": score.value}
        return replace(score, value=found(score.value), details=details, resolution=resolution)
