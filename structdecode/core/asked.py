"""Models that verifiers ask: the search's own and those that verifiers bring, and the answers that are read by them.

What is open here stays open until the search ends: pictures are encoded once a search, and an answer that a verifier
read as far as it went is read from there on when it has grown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from structdecode.core.budget import Usage
from structdecode.core.protocols import Account, Backend, ForcedText, GenerationRequest, Session
from structdecode.core.types import Candidate, Prompt, Sampling, Span, Stage

Beginning = tuple[ForcedText, ...]
"""The pieces of an answer up to one of them."""


class KeptSessions:
    """What a search's verifiers have open."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._models: dict[int, tuple[object, AskedModel]] = {}

    def of_search(self, session: Session) -> AskedModel:
        """The search's own model, in its session or in a view's."""
        return self._models.setdefault(id(session), (session, AskedModel(self._stack, root=session)))[1]

    def of(self, backend: Backend) -> AskedModel:
        """A model that a verifier brought, with a prefix cache of this search's own where it has one: what a search
        costs does not depend on others.
        """
        return self._models.setdefault(id(backend), (backend, AskedModel(self._stack, backend)))[1]

    async def close(self) -> None:
        """Frees all of it."""
        self._models.clear()
        await self._stack.aclose()


class AskedModel:
    """A model as a verifier asks it in one search. Sessions share what is known of pictures.

    Attributes:
        root: the session that the others are opened from; of a verifier's own model from the first question on.
    """

    def __init__(self, stack: AsyncExitStack, backend: Backend | None = None, root: Session | None = None) -> None:
        view = getattr(backend, "isolated", None)
        self.root, self._given = root, backend
        self._backend: Backend | None = view() if view is not None else backend
        self._stack, self._readers = stack, dict[Any, Reader]()

    @property
    def resolution(self) -> float:
        """See `Model.resolution`."""
        return float(getattr(self._given if self.root is None else self.root, "resolution", 0.0))

    def flops(self, prompt: Prompt) -> Callable[[Usage], float] | None:
        """FLOPs of a piece of work on a prompt; None of the search's own model, and of one that does not tell."""
        cost = getattr(self._backend, "flops", None)
        if cost is None:
            return None
        sizes = [picture.image.size for picture in prompt.images]
        return lambda used: float(cost.of(used.as_dict(), sizes))

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return _Opening(self, prompt)

    async def rooted(self, prompt: Prompt) -> Session:
        """The session that others are opened from."""
        if self.root is None:
            assert self._backend is not None
            opened = self._backend.open(prompt)
            root = await self._stack.enter_async_context(opened)
            self.root = self.root or root
        return self.root

    async def reader(self, prompt: Prompt, hidden_layers: Sequence[int]) -> Reader:
        """One for all who read answers behind the same prompt."""
        pictures = tuple(picture.digest for picture in prompt.images)
        key = (prompt.question, pictures, prompt.images_at, prompt.history, tuple(hidden_layers))
        if key not in self._readers:
            root = await self.rooted(prompt)
            session = await self._stack.enter_async_context(root.open(prompt))
            self._readers.setdefault(key, Reader(session, hidden_layers))
        return self._readers[key]


class _Opening(AbstractAsyncContextManager[Session]):
    """A session that is opened from the root, which comes first."""

    def __init__(self, model: AskedModel, prompt: Prompt) -> None:
        self._model, self._prompt, self._stack = model, prompt, AsyncExitStack()

    async def __aenter__(self) -> Session:
        root = await self._model.rooted(self._prompt)
        return await self._stack.enter_async_context(root.open(self._prompt))

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()


class Reader:
    """Answers that are read behind one prompt, piece by piece: what is known of a beginning is not computed again."""

    def __init__(self, session: Session, hidden_layers: Sequence[int]) -> None:
        self.lock = asyncio.Lock()
        self._session = session
        self._request = GenerationRequest(
            Stage("ANSWER"), Sampling(), force_begin=False, leave_open=True, hidden_layers=tuple(hidden_layers)
        )
        self._read: dict[Beginning, Candidate] = {(): Candidate()}
        self._held: set[Beginning] = set()

    def unread(self, answers: Sequence[Sequence[ForcedText]], length: int) -> list[Beginning]:
        """The different beginnings of so many pieces that were not read yet, in order."""
        found = dict.fromkeys(tuple(answer[:length]) for answer in answers if len(answer) >= length)
        return [beginning for beginning in found if beginning not in self._read]

    async def read(self, beginnings: Sequence[Beginning], account: Account) -> None:
        """Each one's last piece, behind the rest, which was read before."""
        parents = [self._read[beginning[:-1]] for beginning in beginnings]
        texts = [beginning[-1] for beginning in beginnings]
        spans = (await self._session.force(parents, texts, self._request, account=account)).value
        for beginning, parent, span in zip(beginnings, parents, spans, strict=True):
            self._read[beginning] = parent.extended(span, 0)
            self._held.add(beginning)

    def keep(self, answers: Sequence[Sequence[ForcedText]]) -> None:
        """Frees the keys and values of what is no beginning of these; what was read of it stays known."""
        wanted = {tuple(answer[:length]) for answer in answers for length in range(1, len(answer) + 1)}
        self._session.release([self._read[beginning] for beginning in self._held - wanted])
        self._held &= wanted

    def spans(self, answer: Sequence[ForcedText]) -> list[Span]:
        """One a piece."""
        return list(self._read[tuple(answer)].spans)
