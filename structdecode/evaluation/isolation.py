"""A question's own prefix cache, so that what it costs does not depend on what was asked before or beside it.

A local backend keeps prompts for later ones. That is what a server wants; in a comparison it would let the second
strategy have the prompt and the picture that the first one paid for, and the counts would depend on the order.
"""

from __future__ import annotations

from typing import cast

from structdecode.core.protocols import Backend


def isolated(backend: Backend) -> Backend:
    """The backend's `isolated` view of itself; one that has none is given back as it is."""
    view = getattr(backend, "isolated", None)
    return cast(Backend, view()) if view is not None else backend
