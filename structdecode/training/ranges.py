"""Which numbers the settings of a training run may have: finite ones, each in its range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from structdecode.core.errors import ConfigError
from structdecode.core.problems import shown


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` to ``most``; without the first itself where it is ``open``, without the last where ``below``."""

    least: float
    most: float = math.inf
    open: bool = False
    below: bool = False

    def complaint(self, value: float) -> str | None:
        """What a number has to be where it is not; None where it is."""
        if not (value > self.least if self.open else value >= self.least):
            return f"above {self.least:g}" if self.open else f"at least {self.least:g}"
        if not (value < self.most if self.below else value <= self.most):
            return f"below {self.most:.10g}" if self.below else f"at most {self.most:.10g}"
        return None


ABOVE_ZERO, ZERO_OR_MORE = Range(0, open=True), Range(0)
COUNT = Range(1, 2**31 - 1)
COUNT_OR_ZERO = Range(0, 2**31 - 1)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, below=True)
SEED = Range(0, 2**32 - 1)
"""What numpy takes, which `transformers.set_seed` seeds, too."""


def check_numbers(settings: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Numbers of settings, inside of lists and mappings too; texts and None are passed over.

    Args:
        ranges: by name; other numbers only have to be finite.

    Raises:
        ConfigError: naming the first that is not, and what is wanted.
    """
    for name, value in settings.items():
        for number in _numbers(value):
            # math.isfinite would raise on integers beyond the range of a float
            finite = isinstance(number, int) or math.isfinite(number)
            wanted = ranges[name].complaint(number) if finite and name in ranges else None
            if not finite or wanted:
                raise ConfigError(f"{name} must be {wanted or 'a finite number'}, not {shown(number)}")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check_save_dtype(name: str | None) -> None:
    """Raises `ConfigError` where final weights cannot be kept so."""
    if name not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"save_dtype must be float32, bfloat16 or float16, not {name!r}")
