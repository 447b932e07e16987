"""Models of verifiers' own in memory: one for all who ask for the same, as long as one of them holds it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_loading = threading.Lock()
_in_memory: WeakValueDictionary[Hashable, object] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """What was loaded under this key and is still held by somebody; else it is loaded."""
    with _loading:
        found = _in_memory.get(key)
        if found is None:
            found = _in_memory[key] = load()
        return found  # type: ignore[return-value]


class OwnModel:
    """Base of verifiers that run a model of their own: loaded when it is first asked, freed with the last that holds it."""

    async def _in_memory(self, key: Hashable, load: Callable[[], T]) -> T:
        """The model, loaded in a thread; see `shared`."""
        if "_loaded" not in self.__dict__:
            self.__dict__["_loaded"] = await asyncio.to_thread(shared, key, load)
        return self.__dict__["_loaded"]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Lets go of the weights, as the end of this object does; another score loads them again."""
        self.__dict__.pop("_loaded", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}
