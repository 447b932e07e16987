"""How finely a model's own numbers may be compared, by its precision.

The same tokens get log-probabilities that differ in their last bits with the shape of the batch they were computed in.
A difference within the resolution is taken for noise, and the lower path wins (`structdecode.core.types.rank`): so the same
question takes the same path alone and in a crowd. Measured by ``python -m benchmarks.divergence`` on the embedded model
(docs/performance.md): mean log-probabilities of the same tokens differ by up to 7e-7 in float32, 4e-4 in float16 and 3e-3 in
bfloat16, probabilities that `p-true` reads by 1e-6, 2e-3 and 1.2e-2.
"""

from __future__ import annotations

BY_PRECISION = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Relative to the larger of 1 and the values' sizes."""


def resolution(dtype: object) -> float:
    """Of numbers that a model of this dtype computes (``torch.float32`` or its name); unknown ones as bfloat16's."""
    return BY_PRECISION.get(str(dtype).removeprefix("torch."), BY_PRECISION["bfloat16"])
