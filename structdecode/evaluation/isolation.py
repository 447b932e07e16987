"""A question's own prefix cache, so that what it costs does not depend on what was asked before or beside it.

The local backend keeps prompts for later ones. That is what a server wants; in a comparison it would let the second
strategy have the prompt and the picture that the first one paid for, and the counts would depend on the order.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from structdecode.core.protocols import Backend

LIMIT = 512 << 20
"""Bytes a question's prompts may take. A large search whose judge's prompts take more computes some again."""


def isolated(backend: Backend) -> Backend:
    """The same backend (model, scheduler, batches) with an empty prefix cache of its own; throw it away afterwards.

    A backend without such a cache is given back as it is.
    """
    if getattr(backend, "engine", None) != "slots":
        return backend
    view: Any = copy.copy(backend)
    view.prefixes = _own_cache()
    return cast(Backend, view)


def _own_cache() -> Any:
    from structdecode.backends.transformers.slots.prefixes import PrefixCache

    class OwnCache(PrefixCache):
        """Waits for every token that a prompt under way will bring, not only where it saves time.

        So a question's prompts cost what their common tree has, in whatever order they arrive.
        """

        def worth_waiting(self, ids: tuple[int, ...], images: tuple[str, ...], have: int, least: int = 1) -> bool:
            return super().worth_waiting(ids, images, have, least)

    return OwnCache(LIMIT)
