"""The error model.

A mistake of the user's (bad picture, unknown name, wrong value) raises one of these before any work is done,
in one line that names the value and the remedy. What goes wrong later is data: a malformed stage is a span
with ``finish_reason="invalid"``, a failing verifier is an unscored candidate and a line in the trace, a spent
budget is ``Result.stopped_by``. No error of a plug-in or of a model's answer ends a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class StructdecodeError(Exception):
    """Base of all errors raised for the user to read."""


class ImageError(StructdecodeError):
    """A picture cannot be used: missing, not an image, truncated, or too large."""


class PromptError(StructdecodeError):
    """A question cannot be asked as it stands."""


class SchemaError(StructdecodeError):
    """Stages, tags or instruction of a schema do not fit together."""


class ConfigError(StructdecodeError):
    """An option has an unknown name or a value of the wrong type or range."""


class UnknownNameError(ConfigError):
    """A strategy, verifier, backend, schema or option of this name is not known."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        super().__init__(f"unknown {what} {name!r}{hint} known: {', '.join(names) or 'none'}")


class NoModelError(ConfigError):
    """A verifier asked for a model where there is none but those that it brings."""


class DataError(StructdecodeError):
    """A data set as a whole cannot be read: not there, of an unknown format, or without a column that it needs."""


class ModelError(StructdecodeError):
    """A checkpoint cannot be loaded or is not an image-text model with a chat template."""


class ModelFailedError(ModelError):
    """A model raised something on a request; ``__cause__`` has it."""


class NotRecordedError(ModelError):
    """A replayed search asked for what its recording does not hold.

    Attributes:
        missing: how much of what, at least: a search cannot go on behind what is missing.
    """

    def __init__(self, missing: Mapping[str, int]) -> None:
        self.missing = dict(missing)
        listed = ", ".join(f"{count:,} {what}" for what, count in sorted(missing.items()))
        super().__init__(f"the recording does not hold {listed}")


class StrategyError(StructdecodeError):
    """A strategy failed, or gave back what is no ranking of its decoder's candidates."""


class MissingExtraError(StructdecodeError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package!r} is needed here: pip install 'structdecode[{extra}]'")


class BudgetSpent(Exception):
    """Ends a strategy when nothing is left to spend. The engine catches it: users see ``Result.stopped_by``."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit
