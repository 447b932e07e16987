"""Models of verifiers' own in memory: one for all who ask for the same, as long as one of them holds it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ConfigError
from structdecode.core.lookup import find_checkpoint

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

    async def _from_checkpoint(
        self, kind: str, name: str, digest: str, settings: Hashable, load: Callable[[str], T]
    ) -> T:
        """What is loaded from a checkpoint with these settings, in a thread; see `shared`.

        Args:
            kind: what it is, for keys and messages. digest: of the checkpoint as it was when the verifier was made; empty
                where it is no directory.

        Raises:
            ConfigError: the directory does not hold the checkpoint of this digest any more.
        """
        if "_loaded" not in self.__dict__:
            found = find_checkpoint(name)
            place = str(Path(found).resolve()) if digest else found

            def checked() -> T:
                if digest and checkpoint_digest(place) != digest:
                    raise ConfigError(f"{kind} {name!r} has changed since this verifier was made: make it anew")
                return load(place)

            self.__dict__["_loaded"] = await asyncio.to_thread(shared, (kind, place, digest, settings), checked)
        return self.__dict__["_loaded"]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Lets go of the weights, as the end of this object does; another score loads them again."""
        self.__dict__.pop("_loaded", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}
