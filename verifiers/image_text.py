"""A dual encoder says how well a caption fits the picture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ConfigError
from structdecode.core.lookup import find_checkpoint
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.matching.texts import sentences
from structdecode.verifiers.own_model import OwnModel

if TYPE_CHECKING:
    from structdecode.verifiers.image_text_encoder import Encoder


@dataclass(frozen=True)
class ImageText(OwnModel):
    """Cosine similarity of picture and caption, sentence by sentence, in a CLIP or SigLIP model (arXiv 2103.00020, 2303.15343).

    Sentences, since these models were trained on single ones and have a short context; one that does not fit is cut at it,
    and the details name it (``cut``). Each sentence's own similarity is in the details (``sentences``); with several
    pictures it is that of the picture that fits best. A picture is encoded once for all candidates and rounds. The search
    is charged for what is computed: tokens with their padding, new pictures, one model call.
    Verifiers of one path share the weights, which are freed with the last of them.

    Attributes:
        path: a directory with a checkpoint of transformers' `CLIPModel`, `SiglipModel` or another with both encoders.
        aggregate: of the sentences' similarities.
        stage: the caption's name.
        device, dtype: default: CUDA where there is one; float32 on a CPU, else the checkpoint's own.
        digest: of all that is in the directory: other weights at the same path are another verifier.
    """

    path: str
    aggregate: Literal["mean", "min"] = "mean"
    stage: str = "CAPTION"
    device: str | None = None
    dtype: str = "auto"
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        check_settings(self)
        place = Path(find_checkpoint(self.path))
        if not (place / "config.json").is_file():
            raise ConfigError(
                f"image-text: {self.path!r} is no directory with a checkpoint: give one of a CLIP or SigLIP"
            )
        object.__setattr__(self, "digest", checkpoint_digest(place))

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        said = [sentences(candidate.stages.get(self.stage, "")) for candidate in candidates]
        texts = list(dict.fromkeys(sentence for each in said for sentence in each))
        if not prompt.images or not texts:
            reason = f"no {self.stage} yet" if prompt.images else "there is no picture"
            return [Score.unscored(reason)] * len(candidates)
        encoder = await self._encoder()
        found = await asyncio.to_thread(encoder.similarities, texts, prompt.images, model.charge)
        of_text = dict(zip(texts, found.values, strict=True))
        return [self._score({text: of_text[text] for text in each}, found.cut, found.resolution) for each in said]

    async def _encoder(self) -> Encoder:
        from structdecode.verifiers import image_text_encoder

        settings = (self.device, self.dtype)
        return await self._from_checkpoint(
            "image-text", self.path, self.digest, settings, lambda place: image_text_encoder.load(place, *settings)
        )

    def _score(self, found: dict[str, float], cut: frozenset[str], resolution: float) -> Score:
        if not found:
            return Score.unscored(f"no {self.stage} yet")
        values = list(found.values())
        least = min(found, key=lambda text: found[text])
        value = min(values) if self.aggregate == "min" else sum(values) / len(values)
        details = {"sentences": found, "cut": [text for text in found if text in cut]}
        return Score(value, f"fits least: {least}", details, resolution=resolution)
