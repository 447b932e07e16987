"""Seeds from what a random choice is for, not from when it is made: the same in any batch and any order."""

from __future__ import annotations

import hashlib
import numbers
from typing import Any

from structdecode.core.errors import ConfigError
from structdecode.core.reading import short_repr


def derive(*parts: object) -> int:
    """A 63-bit seed from the parts' text: (run seed, sample id, candidate path, stage), say."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def checked(seed: Any) -> int:
    """A run's seed as Python's own number: another library's has another text, and `derive` goes by that.

    Raises:
        ConfigError: it is no whole number.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise ConfigError(f"seed must be a whole number, not {short_repr(seed)}")
    return int(seed)
