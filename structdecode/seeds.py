"""Seeds from what a random choice is for, not from when it is made: the same in any batch and any order."""

from __future__ import annotations

import hashlib


def derive(*parts: object) -> int:
    """A 63-bit seed from the parts' text: (run seed, sample id, candidate path, stage), say."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
