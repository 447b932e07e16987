"""Would the model have written the same of another picture?"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np
from PIL import Image

from structdecode.core.errors import ConfigError
from structdecode.core.images import load_picture
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score

Control = Literal["blank", "shuffled", "cropped", "none"]


@dataclass(frozen=True)
class Grounding:
    """How much less probable a text is, in nats a token, when the picture is changed: the mean log-probability with it less without.

    0 is a text that does not depend on the picture; what the model reads off it is above. The log-probabilities are the
    model's own, of the text behind the question and the earlier stages. All candidates are one forward pass a picture.
    (Image contrast as a decoding rule: VCD, arXiv 2311.16922; M3ID, arXiv 2403.14003.)

    Attributes:
        control: what stands in place of the picture. ``blank``: its mean colour; ``shuffled``: its patches in another
            order; ``cropped``: its left half; ``none``: no picture at all.
        stages: whose text is looked at, with its end tag; empty: the newest.
        patches: on each side of a shuffled picture. seed: of their order.
    """

    control: Control = "blank"
    stages: tuple[str, ...] = ()
    patches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.patches < 2 or self.seed < 0:
            raise ConfigError(
                f"grounding: patches must be at least 2 and seed 0 or more, not {self.patches}, {self.seed}"
            )

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if not prompt.images:
            return [Score.unscored("there is no picture")] * len(candidates)
        pieces = [list(self._pieces(candidate)) for candidate in candidates]
        heads = list(dict.fromkeys(head for each in pieces for head, _ in each if head))
        texts = list(dict.fromkeys(text for each in pieces for _, text in each))
        if not texts:
            return [Score.unscored(self._nothing)] * len(candidates)
        other = await asyncio.to_thread(self.changed, prompt)
        seen, unseen = await asyncio.gather(model.log_probs(prompt, [*heads, *texts]), model.log_probs(other, texts))
        begins = {head: len(values) for head, values in zip(heads, seen, strict=False)}
        of_text = dict(zip(texts, zip(seen[len(heads) :], unseen, strict=True), strict=True))
        scores = []
        for each in pieces:
            with_it = [v for head, text in each for v in of_text[text][0][begins.get(head, 0) :]]
            without = [v for head, text in each for v in of_text[text][1][begins.get(head, 0) :]]
            scores.append(self._score(with_it, without))
        return scores

    @property
    def _nothing(self) -> str:
        return f"no {' or '.join(self.stages)} yet" if self.stages else "nothing is written yet"

    def _score(self, with_it: Sequence[float], without: Sequence[float]) -> Score:
        if not with_it:
            return Score.unscored(self._nothing)
        seen, unseen = (sum(values) / len(values) for values in (with_it, without))
        details = {"with": seen, "without": unseen, "tokens": len(with_it), "control": self.control}
        return Score(seen - unseen, details=details)

    def _pieces(self, candidate: Candidate) -> Iterator[tuple[str, str]]:
        """Of each stage looked at all that stands before its text, and that with the text."""
        before = ""
        for stage, group in groupby(candidate.spans, key=lambda span: span.stage):
            spans = list(group)
            raw = "".join(span.raw for span in spans)
            if stage in (self.stages or (candidate.last_stage,)) and raw.strip():
                found = re.search(rf"(?<!\w){re.escape(spans[0].text)}(?!\w)", raw)
                yield (before + raw[: found.start() if found else 0]).rstrip(), before + raw
            before += raw

    def changed(self, prompt: Prompt) -> Prompt:
        """The same question with other pictures, of the same size where they are not cropped."""
        if self.control == "none":
            return replace(prompt, images=())
        make = {"blank": _blank, "shuffled": self._shuffled, "cropped": _cropped}[self.control]
        return replace(prompt, images=tuple(load_picture(make(picture.image)) for picture in prompt.images))

    def _shuffled(self, image: Image.Image) -> Image.Image:
        """Patches change places; what they leave over at the right and the bottom stays."""
        columns, rows = min(self.patches, image.width), min(self.patches, image.height)
        width, height = image.width // columns, image.height // rows
        corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
        made = image.copy()
        for corner, other in zip(corners, np.random.default_rng(self.seed).permutation(len(corners)), strict=True):
            x, y = corners[other]
            made.paste(image.crop((x, y, x + width, y + height)), corner)
        return made


def _blank(image: Image.Image) -> Image.Image:
    colour = np.asarray(image, dtype=np.float64).mean((0, 1)).round().astype(int)
    return Image.new("RGB", image.size, tuple(map(int, colour)))


def _cropped(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, max(1, image.width // 2), image.height))
