"""A prompt among many: its requests are generators that the scheduler drives, all in one thread."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structdecode.backends.transformers.constraints import constraint
from structdecode.backends.transformers.hidden import Hidden, check_layers, with_states
from structdecode.backends.transformers.sampling import text_log_probs, token_statistics
from structdecode.backends.transformers.sequences import TokenSequence
from structdecode.backends.transformers.slots.forward import ImageKV, KVHandle
from structdecode.backends.transformers.slots.kv import Segment
from structdecode.backends.transformers.slots.prefill import Prefilled, prefill
from structdecode.backends.transformers.slots.prefixes import CrossLayers, PrefixEntry, cross_mask
from structdecode.backends.transformers.slots.requests import DecodeRow, PrefillRow, Steps
from structdecode.backends.transformers.threads import release_openmp_threads
from structdecode.backends.transformers.vision import ImageMemory
from structdecode.core.budget import Tally, Usage
from structdecode.core.protocols import UNMETERED, Account, ForcedText, GenerationRequest, Row, Session, Work
from structdecode.core.reuse import PromptTokens, kept_as, known_beginnings, owed, owed_to_end
from structdecode.core.types import Candidate, NextToken, Prompt, Span

if TYPE_CHECKING:
    from structdecode.backends.transformers.backend import TransformersBackend

COPY_UP_TO = 512
"""Tokens up to which the rows that continue one prefix get copies of it in their slots: one attention less."""


class SlotSession:
    """See `structdecode.core.protocols.Session`."""

    def __init__(self, backend: TransformersBackend, prompt: Prompt, images: ImageMemory) -> None:
        self.backend, self.prompt, self.images = backend, prompt, images
        self.codec, self.prefixes = backend.codec, backend.prefixes
        self.image_key = tuple(picture.digest for picture in prompt.images)
        self.inputs: dict[str, Tensor] | None = None
        self.root: KVHandle | None = None
        self.branches: dict[tuple[int, ...], KVHandle] = {}
        self.prefix_log_probs: dict[tuple[int, ...], tuple[float, ...]] = {}  # by all ids up to the end of a begin tag
        self.epoch = 0

    # ------------------------------------------------------------------ the protocol
    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        check_layers(self.backend.model, request.hidden_layers)
        await self._read()
        return await self.backend.scheduler.run(self._extend(self._sequences(rows, request), Tally(account)))

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        check_layers(self.backend.model, request.hidden_layers)
        await self._read()
        forced = [self.codec.forced(text, request) for text in texts]
        sequences = self._sequences([Row(prefix) for prefix in prefixes], request)
        return await self.backend.scheduler.run(self._force(sequences, forced, Tally(account)))

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        await self._read()
        sequences = self._sequences([Row(prefix) for prefix in prefixes], request)
        return await self.backend.scheduler.run(self._next_tokens(sequences, k, Tally(account)))

    def _sequences(self, rows: Sequence[Row], request: GenerationRequest) -> list[TokenSequence]:
        assert self.inputs is not None
        bound = constraint(self.backend.model, self.inputs)
        return [TokenSequence(row, request, self.codec, self.inputs["input_ids"], bound) for row in rows]

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        await self._read()
        return await self.backend.scheduler.run(
            self._log_probs([self.codec.encode(t) for t in continuations], Tally(account))
        )

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self.backend.open_sharing(prompt, self.images)

    @property
    def resolution(self) -> float:
        return self.backend.resolution

    @property
    def prompt_tokens(self) -> PromptTokens | None:
        """See `Session.prompt_tokens`."""
        if self.inputs is None:
            return None
        ids = tuple(self.inputs["input_ids"][0].tolist())
        return PromptTokens(ids, self._text_from(ids), shares=True, pictures_apart=bool(self.backend.cross_layers))

    def release(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            for ids in kept_as(candidate):
                self.branches.pop(ids, None)

    def close(self) -> None:
        self.inputs = self.root = None
        self.branches.clear()
        self.prefix_log_probs.clear()

    async def _read(self) -> None:
        """The prompt as tensors; pictures are prepared beside the model's work, not between its steps."""
        if self.inputs is None:
            self.inputs = await asyncio.to_thread(self._inputs)

    def _inputs(self) -> dict[str, Tensor]:
        try:
            return self.codec.inputs(self.prompt)
        finally:
            release_openmp_threads()

    # ------------------------------------------------------------------ what the scheduler drives
    def _extend(self, sequences: list[TokenSequence], bill: Tally) -> Steps[Work[list[Span]]]:
        yield from self._prefill(bill)
        starts = yield from self._starts(sequences, bill)
        bill.charge(Usage(model_calls=1))
        rows = [
            DecodeRow(place, private_prefix=copy, sequence=sequence, account=bill)
            for sequence, place, copy in zip(sequences, starts, _copied(starts), strict=True)
        ]
        yield rows
        for row in rows:
            assert row.result is not None
            self.branches.setdefault((*row.sequence.wanted, *row.sequence.ids), row.result)
        spans = yield from self._with_hidden(sequences, [sequence.span() for sequence in sequences], {}, bill)
        return Work(spans, bill.usage)

    def _force(
        self, sequences: list[TokenSequence], forced: Sequence[tuple[int, ...]], bill: Tally
    ) -> Steps[Work[list[Span]]]:
        yield from self._prefill(bill)
        assert self.root is not None
        self.codec.check_room(self.root.length, sequences, forced)
        starts = yield from self._starts(sequences, bill)
        bill.admit(sum(map(len, forced)))
        bill.charge(Usage(model_calls=1))
        feeds = [
            PrefillRow(place, private_prefix=copy, tokens=ids, every=True, layers=sequence.request.hidden_layers)
            for sequence, ids, place, copy in zip(sequences, forced, starts, _copied(starts), strict=True)
        ]
        yield feeds
        for sequence, ids, place, feed in zip(sequences, forced, starts, feeds, strict=True):
            assert place.logits is not None
            before = torch.cat([place.logits[None], *feed.logits])[:-1]  # [T, V]
            sequence.put(ids, *token_statistics(before.float(), torch.tensor(ids, device=before.device)))
            self.branches.setdefault((*sequence.wanted, *ids), feed.place)
        known = {(*w.wanted, *w.ids): feed.hidden for w, feed in zip(sequences, feeds, strict=True)}
        spans = yield from self._with_hidden(sequences, [sequence.span() for sequence in sequences], known, bill)
        return Work(spans, bill.usage)

    def _with_hidden(
        self,
        sequences: Sequence[TokenSequence],
        spans: list[Span],
        known: Mapping[tuple[int, ...], Hidden],
        bill: Tally,
    ) -> Steps[list[Span]]:
        """The spans with the states at their last tokens, where layers are asked for.

        Most of these tokens were drawn last or put there to close a stage, and nothing has been run on them yet; what
        goes on from there finds them computed.
        """
        if not any(sequence.request.hidden_layers for sequence in sequences):
            return spans
        assert self.root is not None
        found, missing = dict(known), dict[tuple[int, ...], tuple[KVHandle, Sequence[int]]]()
        for sequence, span in zip(sequences, spans, strict=True):
            end = sequence.row.prefix.extended(span, 0)
            if end.token_ids not in found and sequence.may_end(end, self.root.length):
                place = self._longest_known(end, end.token_ids)
                bill.admit(owed_to_end(end, place.length - self.root.length))
                missing[end.token_ids] = place, sequence.request.hidden_layers
        copies = _copied([place for place, _ in missing.values()])
        feeds = [
            PrefillRow(place, private_prefix=copy, tokens=ids[place.length - self.root.length :], layers=layers)
            for (ids, (place, layers)), copy in zip(missing.items(), copies, strict=True)
        ]
        if feeds:
            yield feeds
        for ids, feed in zip(missing, feeds, strict=True):
            self.branches[ids], found[ids] = feed.place, feed.hidden
        return [
            with_states(
                span, found.get((*sequence.row.prefix.token_ids, *span.all_ids)), sequence.request.hidden_layers
            )
            for sequence, span in zip(sequences, spans, strict=True)
        ]

    def _next_tokens(self, sequences: list[TokenSequence], k: int, bill: Tally) -> Steps[Work[list[list[NextToken]]]]:
        yield from self._prefill(bill)
        starts = yield from self._starts(sequences, bill)
        bill.charge(Usage(model_calls=1))
        found = [self.codec.next_tokens(place.logits, k) for place in starts if place.logits is not None]
        return Work(found, bill.usage)

    def _log_probs(self, encoded: list[tuple[int, ...]], bill: Tally) -> Steps[Work[list[list[float]]]]:
        yield from self._prefill(bill)
        assert self.root is not None and self.root.logits is not None
        texts = {i: ids[:-1] for i, ids in enumerate(encoded) if len(ids) > 1}
        copied = _copied([self.root] * len(texts))
        feeds = {
            i: PrefillRow(self.root, private_prefix=copy, tokens=ids, every=True)
            for (i, ids), copy in zip(texts.items(), copied, strict=True)
        }
        if feeds:
            bill.admit(sum(len(feed.tokens) for feed in feeds.values()))
            yield list(feeds.values())
        bill.charge(Usage(model_calls=1))
        rest = {i: torch.cat(feed.logits) for i, feed in feeds.items()}
        values = [text_log_probs(ids, self.root.logits, rest.get(i)) for i, ids in enumerate(encoded)]
        return Work(values, bill.usage)

    # ------------------------------------------------------------------ the prompt
    def _prefill(self, bill: Tally) -> Steps[None]:
        """The prompt, the first time: as much as can be had from the prefix cache, the rest computed.

        Once more after a change of the model, with all branches forgotten.
        """
        if self.epoch != self.backend.epoch and self.inputs is not None:
            self.root, self.inputs, self.epoch = None, self.codec.placed(self.inputs), self.backend.epoch
            self.branches.clear()
            self.prefix_log_probs.clear()
        if self.root is not None:
            return
        assert self.inputs is not None
        ids = tuple(self.inputs["input_ids"][0].tolist())
        self.prefixes.renew(self.backend.epoch)
        known, have = self.prefixes.longest(ids, self.image_key)
        while self.root is None and self.prefixes.worth_waiting(ids, self.image_key, have):
            yield ()
            known, have = self.prefixes.longest(ids, self.image_key)
        if self.root is not None:
            return
        if known is not None and known.ids != ids:
            have = min(have, len(ids) - 1)  # the last token's logits are wanted
        if known is None and self.image_key:
            known = self.prefixes.same_pictures(self.image_key)
        bill.admit(len(ids) - have)
        if known is not None and have == len(ids):
            self.root = self._place(known)
            self._reuse(have, bill)
            return
        with self.prefixes.computing(ids, self.image_key):
            if known is None:
                done = yield from prefill(self.backend, self.inputs, self.images, len(self.prompt.images), bill)
                found = self._from_model(ids, done)
            else:
                found = yield from self._resume(ids, known, have)
                self._reuse(have, bill)
        self.prefixes.add(found)
        self.root = self._place(found)

    def _reuse(self, tokens: int, bill: Tally) -> None:
        self.prefixes.hits += 1
        self.prefixes.hit_tokens += tokens
        bill.charge(Usage(cached_tokens=tokens))

    def _from_model(self, ids: tuple[int, ...], done: Prefilled) -> PrefixEntry:
        pairs = {i: (layer.keys, layer.values) for i, layer in enumerate(done.cache.layers)}
        cross = {i: pairs.pop(i) for i in self.backend.cross_layers}
        segment = Segment(list(pairs.values()), len(ids))
        return self._known(ids, segment, done.delta, cross if self.prompt.images else {}, done.logits)

    def _resume(self, ids: tuple[int, ...], known: PrefixEntry, have: int) -> Steps[PrefixEntry]:
        """The rest of a prompt whose beginning (or whose pictures) are in the cache, fed as text."""
        assert self.inputs is not None
        segment, cross = known.segment.head(have), known.cross
        view = ImageKV(cross, None) if cross else None
        mask = no_image_mask = None
        if view is not None:
            tiles = self.inputs["cross_attention_mask"][0, have:]  # [T, images, tiles]
            mask = cross_mask(tiles, self._patches(cross, tiles), segment.buffers[0][0].dtype)
            no_image_mask = ~tiles.flatten(1).any(-1)
            no_image_mask = no_image_mask if bool(no_image_mask.any()) else None
        place = KVHandle(segment, None, known.offset, view)
        feed = PrefillRow(
            place, private_prefix=_copied([place])[0], tokens=ids[have:], mask=mask, no_image_mask=no_image_mask
        )
        yield [feed]
        assert feed.place.logits is not None
        return self._known(ids, feed.place.as_segment().segment, known.offset, cross, feed.place.logits)

    @staticmethod
    def _patches(cross: CrossLayers, tiles: Tensor) -> int:
        """Patches of a tile."""
        keys, _ = next(iter(cross.values()))
        return int(keys.shape[2] // tiles[0].numel())

    def _known(
        self, ids: tuple[int, ...], segment: Segment, offset: int, cross: CrossLayers, logits: Tensor
    ) -> PrefixEntry:
        return PrefixEntry(ids, self.image_key, self._text_from(ids), segment, offset, cross, logits.clone())

    def _text_from(self, ids: tuple[int, ...]) -> int:
        """The place behind the last picture token; 0 where pictures are not among the tokens."""
        if not self.prompt.images or self.backend.cross_layers:
            return 0
        return max((i + 1 for i, token in enumerate(ids) if token == self.backend.image_token), default=len(ids))

    def _place(self, known: PrefixEntry) -> KVHandle:
        assert self.inputs is not None
        view = None
        if known.cross:
            tiles = self.inputs["cross_attention_mask"][0, -1:]
            mask = cross_mask(tiles, self._patches(known.cross, tiles), known.logits.dtype)
            view = ImageKV(known.cross, mask)
        return KVHandle(known.segment, None, known.offset, view, known.logits)

    # ------------------------------------------------------------------ branches
    def _starts(self, sequences: Sequence[TokenSequence], bill: Tally) -> Steps[list[KVHandle]]:
        """Where each row starts from, with its logits. What several rows share is computed once, and shared."""
        assert self.root is not None
        rows_from = Counter(sequence.wanted for sequence in sequences)
        missing: dict[tuple[int, ...], KVHandle] = {}
        asked: dict[tuple[int, ...], TokenSequence] = {}
        cached = forced = 0
        self.branches[()] = self.root
        for sequence in sequences:
            ids = sequence.wanted
            place = self.branches.get(ids)
            if sequence.wants_prefix and ids not in self.prefix_log_probs:
                asked[ids] = sequence
            if place is None or place.logits is None or ids in asked:
                first = ids not in missing
                place = missing.setdefault(ids, self._longest_known(sequence.row.prefix, ids, told=ids in asked))
                forced += (
                    owed(sequence.row.prefix, len(sequence.prefix_ids), place.length - self.root.length) if first else 0
                )
            cached += place.length
        bill.charge(Usage(cached_tokens=cached))
        bill.admit(forced)
        feeds = [
            PrefillRow(place, private_prefix=copy, tokens=ids[place.length - self.root.length :], every=ids in asked)
            for (ids, place), copy in zip(missing.items(), _copied(list(missing.values())), strict=True)
        ]
        if feeds:
            yield feeds
        for (ids, place), feed in zip(missing.items(), feeds, strict=True):
            self.branches[ids] = feed.place
            if ids in asked:
                self.prefix_log_probs[ids] = asked[ids].behind_prefix(place.logits, torch.cat(feed.logits))
        for sequence in sequences:
            if sequence.wants_prefix:
                sequence.prefix_log_probs = self.prefix_log_probs[sequence.wanted]
        for ids, rows in rows_from.items():
            if rows > 1:
                self.branches[ids] = self.branches[ids].as_segment()
        return [self.branches[sequence.wanted] for sequence in sequences]

    def _longest_known(self, candidate: Candidate, ids: tuple[int, ...], *, told: bool = False) -> KVHandle:
        """The candidate's own place, else an ancestor's, else the bare prompt: as much as need not be computed.

        ``told``: one from which the probability of the token behind the candidate follows.
        """
        assert self.root is not None
        for beginning in known_beginnings(candidate):
            known = self.branches.get(beginning)
            if known is None or known.length - self.root.length >= len(ids):
                continue
            if not told or known.logits is not None or known.length - self.root.length < len(candidate.token_ids):
                return known if told else replace(known, logits=None)
        return self.root


def _copied(places: Sequence[KVHandle]) -> list[bool]:
    """Of rows that continue from these places: whether each gets a copy of its beginning."""
    on_segment = Counter(id(place.segment) for place in places)
    return [on_segment[id(place.segment)] * place.segment.length <= COPY_UP_TO for place in places]
