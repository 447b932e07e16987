"""How far long work is, for a reader."""

from __future__ import annotations

EVERY = 15.0
"""Seconds between two plain lines."""


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
