"""What a forward pass costs, counted from a model's size.

FLOPs are counted by the rule of two per parameter and token for a forward pass (Kaplan et al. 2020, arXiv 2001.08361,
section 2.1 and table 1; Hoffmann et al. 2022, arXiv 2203.15556, appendix F, has the same leading term). The token
embedding is a look-up and costs nothing; the output layer is a product and counts. The attention over the context,
2 * layers * context * width a token, is left out: it is below the rest while the context is under 12 widths, and
usage counts do not hold the context of every token. A picture costs two per parameter of the vision tower and patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCost:
    """FLOPs of a model's pieces of work.

    Attributes:
        per_token: of one token through the text model. per_patch: of one patch through the vision tower.
        patch: a patch's side in pixels. patches: of any picture, where the tower takes one size only, padding and
            all tiles included; None where it depends on the picture's own size.
    """

    per_token: float
    per_patch: float = 0.0
    patch: int = 14
    patches: int | None = None

    def picture(self, width: int, height: int) -> float:
        """FLOPs to encode a picture of this size in pixels."""
        patches = self.patches
        if patches is None:
            patches = -(-width // self.patch) * -(-height // self.patch)
        return self.per_patch * patches

    def of(self, counts: Mapping[str, float], sizes: Sequence[tuple[int, int]]) -> float:
        """FLOPs of one part's `Usage` counts; ``sizes``: the question's pictures, (width, height) each."""
        tokens = counts["generated_tokens"] + counts["prefilled_tokens"]
        mean = sum(self.picture(*size) for size in sizes) / len(sizes) if sizes else 0.0
        return self.per_token * tokens + mean * counts["images_encoded"]
