"""What `structdecode verifier fit` writes: how raw scores of a verifier become probabilities of a right final answer.

A small JSON file. It holds no more than is needed to apply it, what it was fitted on, how good it is on questions that it
was not fitted on, and how the raw scores are spread, from which a cut-off can be read (`Spread.cut_off`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from structdecode.core.declared import read_declared
from structdecode.core.errors import ConfigError
from structdecode.core.paths import write_atomically
from structdecode.core.reading import parse_json, read_text

FORMAT = "structdecode-calibration/1"
ANY_STAGE = "*"
"""The map of all stages, where there is one for all."""
BLEND = 1e-3
"""How much of a map is a strictly rising function of the score, so that no two scores become one probability."""
RETRACE = 0.2533
"""Of a normal distribution 60 % lie below the mean and so many standard deviations."""

Method = Literal["isotonic", "platt"]


@dataclass(frozen=True)
class Spread:
    """How a verifier's raw scores of one stage are spread.

    Attributes:
        n: scores. sigma: their standard deviation (n - 1 below). quantiles: by share: ``0.05``, ``0.5``.
    """

    n: int
    mean: float
    sigma: float
    quantiles: Mapping[str, float]

    def cut_off(self, sigmas: float = RETRACE) -> float:
        """Mean + sigmas * sigma: a stage whose best candidate is below is written again by SWIRES (arXiv 2411.10440)."""
        return self.mean + sigmas * self.sigma


@dataclass(frozen=True)
class ProbabilityMap:
    """A strictly rising function from raw scores to probabilities.

    (1 - `BLEND`) f(x) + `BLEND` (1/2 + atan((x - centre) / scale) / pi), where f is linear between ``knots`` (isotonic
    regression, level at both ends) or, without any, 1 / (1 + exp(-(slope x + intercept))) (Platt 1999). So scores that
    isotonic regression puts on one level keep their raw order.

    Attributes:
        knots: (score, probability), both rising. slope: 0 or more. scale: above 0.
    """

    knots: tuple[tuple[float, float], ...] = ()
    slope: float = 0.0
    intercept: float = 0.0
    centre: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        numbers = [self.slope, self.intercept, self.centre, self.scale, *(v for knot in self.knots for v in knot)]
        if not all(map(math.isfinite, numbers)) or self.slope < 0 or self.scale <= 0:
            raise ConfigError("a map needs finite numbers, a slope of 0 or more and a scale above 0")
        rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(self.knots))
        if not rising or any(not 0 <= probability <= 1 for _, probability in self.knots):
            raise ConfigError("knots are not rising, or a probability is not from 0 to 1")

    def __call__(self, score: float) -> float:
        rising = 0.5 + math.atan((score - self.centre) / self.scale) / math.pi
        return (1 - BLEND) * self._level(score) + BLEND * rising

    def noise(self, score: float, resolution: float) -> float:
        """The resolution of the probability, where that of the score is given: scores that tie become ones that tie."""
        reach = resolution * max(1.0, abs(score))
        here = self(score)
        return max(self(score + reach) - here, here - self(score - reach))

    def _level(self, score: float) -> float:
        if not self.knots:
            return 1.0 / (1.0 + math.exp(min(-(self.slope * score + self.intercept), 700.0)))
        return float(np.interp(score, [x for x, _ in self.knots], [y for _, y in self.knots]))


@dataclass(frozen=True)
class AnswerScores:
    """Raw scores of finished answers, right and wrong ones: for votes weighted by densities (`KdeCalibrated`).

    Attributes:
        right, wrong: rising; of many, so many evenly spread ones that the shares stay.
    """

    right: tuple[float, ...]
    wrong: tuple[float, ...]


@dataclass(frozen=True)
class VerifierIdentity:
    """A verifier's label (`structdecode.core.labels`) and its settings as plain JSON (`structdecode.core.plain`)."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Quality:
    """Of probabilities of a right answer, on questions that they were not fitted on.

    Attributes:
        brier: mean squared error. log_loss: mean negative log-likelihood in nats. ece: expected calibration error over
            ten equally wide bins (Guo et al. 2017, arXiv 1706.04599).
    """

    brier: float
    log_loss: float
    ece: float


@dataclass(frozen=True)
class Measured:
    """What calibration gains, cross-validated over groups of questions.

    Attributes:
        raw: of the scores as they are; None where they are no probabilities (some lie outside 0 to 1).
        base: of the share of right answers, given as every answer's probability. calibrated: out of fold.
        gain: Brier score of ``raw`` (of ``base`` where there is none) less that of ``calibrated``; low, high: its 95 %
            interval over groups; None where there are too few to say.
    """

    candidates: int
    questions: int
    groups: int
    right: float
    raw: Quality | None
    base: Quality
    calibrated: Quality
    gain: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration, as its file has it.

    Attributes:
        maps: by stage, or one for `ANY_STAGE`. scores: the raw scores of each stage. measured: by the keys of ``maps``.
        fitted_on: run, cell, seeds, model, data and code (``study.json``'s words), and versions of what fitted it.
        answers: raw scores of finished answers.
    """

    verifier: VerifierIdentity
    method: Method
    maps: Mapping[str, ProbabilityMap]
    scores: Mapping[str, Spread]
    measured: Mapping[str, Measured]
    fitted_on: Mapping[str, Any]
    answers: AnswerScores | None = None

    def __post_init__(self) -> None:
        if not self.maps:
            raise ConfigError("maps is empty")

    def map_of(self, stage: str) -> ProbabilityMap | None:
        """That of a candidate whose newest stage this is; None where there is none."""
        return self.maps.get(stage, self.maps.get(ANY_STAGE))

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        content = {"format": FORMAT, **asdict(self)}
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads the file.

        Raises:
            ConfigError: it is not there, of another version, something else, or damaged; in one line with the file's name.
        """
        try:
            content = parse_json(read_text(path))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: damaged: not JSON: {error}: fit it again") from None
        form = content.pop("format", None) if isinstance(content, dict) else None
        if not isinstance(form, str) or not form.startswith("structdecode-calibration/"):
            raise ConfigError(f"{path}: not a calibration, which `structdecode verifier fit` writes")
        if form != FORMAT:
            raise ConfigError(f"{path}: is of version {form!r:.60}, and {FORMAT!r} is read here: fit it again")
        return read_declared(cls, content, str(path), "calibration")

    def check(self, identity: VerifierIdentity, path: str) -> None:
        """Raises `ConfigError` unless it was fitted on scores of this very verifier."""
        if identity.name != self.verifier.name:
            raise ConfigError(f"{path}: was fitted on scores of {self.verifier.name!r}, not of {identity.name!r}")
        ours, theirs = identity.settings, self.verifier.settings
        other = next((key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)), None)
        if other is not None:
            raise ConfigError(
                f"{path}: was fitted on {identity.name!r} with {other}={theirs.get(other)!r:.80}, not "
                f"{ours.get(other)!r:.80}: fit it again, or give the verifier those settings"
            )
