"""A prompt in a local model's memory: prefilled once, branched as often as the search likes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from structdecode.backends.transformers.constraints import Constraint, constrained, constraint
from structdecode.backends.transformers.encoding import pad_left
from structdecode.backends.transformers.hidden import Hidden, at_end, check_layers, with_states
from structdecode.backends.transformers.plain.kv import Branch, Prefix, batch_cache, harvest
from structdecode.backends.transformers.sampling import draw, text_log_probs, token_statistics, uniforms
from structdecode.backends.transformers.sequences import TokenSequence, take
from structdecode.backends.transformers.vision import ImageMemory
from structdecode.core.budget import Tally, Usage
from structdecode.core.protocols import UNMETERED, Account, ForcedText, GenerationRequest, Row, Session, Work
from structdecode.core.reuse import PromptTokens, kept_as, known_beginnings, owed, owed_to_end
from structdecode.core.types import Candidate, NextToken, Prompt, Span

if TYPE_CHECKING:
    from structdecode.backends.transformers.backend import TransformersBackend


@dataclass(frozen=True)
class Fed:
    """What came of feeding tokens behind a branch.

    Attributes:
        logits: [T, V] behind each of the tokens. hidden: [layers, H] at the last one, where layers were asked for.
    """

    branch: Any
    logits: Tensor
    hidden: Hidden = None


class PlainSession:
    """See `structdecode.core.protocols.Session`. All model work happens in the backend's one worker thread."""

    def __init__(self, backend: TransformersBackend, prompt: Prompt, images: ImageMemory) -> None:
        self.backend, self.prompt, self.images = backend, prompt, images
        self.codec = backend.codec
        self.prefix: Prefix | None = None
        self.branches: dict[tuple[int, ...], Branch] = {}
        self.prefix_log_probs: dict[tuple[int, ...], tuple[float, ...]] = {}  # by all ids up to the end of a begin tag
        self.epoch = 0
        self.prompt_ids: Tensor | None = None
        self.constraint: Constraint | None = None

    # ------------------------------------------------------------------ the protocol
    async def extend(
        self, rows: Sequence[Row], request: GenerationRequest, *, account: Account = UNMETERED
    ) -> Work[list[Span]]:
        check_layers(self.backend.model, request.hidden_layers)
        bill, given_up = Tally(account), threading.Event()

        def work() -> Work[list[Span]]:
            self._prefill(bill)
            sequences = self._sequences(rows, request)
            starts = self._start(sequences, bill)
            bill.charge(Usage(model_calls=1))
            try:
                self._write(sequences, starts, lambda: request.deadline_passed or given_up.is_set())
            finally:
                bill.charge(Usage(generated_tokens=sum(sequence.sampled for sequence in sequences)))
            return Work(self._with_hidden(sequences, [sequence.span() for sequence in sequences], {}, bill), bill.usage)

        return await self.backend.run(work, given_up.set)

    async def force(
        self,
        prefixes: Sequence[Candidate],
        texts: Sequence[ForcedText],
        request: GenerationRequest,
        *,
        account: Account = UNMETERED,
    ) -> Work[list[Span]]:
        check_layers(self.backend.model, request.hidden_layers)
        bill = Tally(account)

        def work() -> Work[list[Span]]:
            self._prefill(bill)
            assert self.prefix is not None
            sequences = self._sequences([Row(prefix) for prefix in prefixes], request)
            forced = [self.codec.forced(text, request) for text in texts]
            self.codec.check_room(self.prefix.length, sequences, forced)
            starts = self._start(sequences, bill)
            bill.admit(sum(map(len, forced)))
            bill.charge(Usage(model_calls=1))
            known: dict[tuple[int, ...], Hidden] = {}
            for sequence, ids, start, fed in zip(
                sequences, forced, starts, self._fed_behind(starts, forced, request.hidden_layers), strict=True
            ):
                assert start.logits is not None
                before = torch.cat([start.logits[None], fed.logits])[:-1]  # [T, V]
                sequence.put(ids, *token_statistics(before.float(), torch.tensor(ids, device=before.device)))
                self.branches.setdefault((*sequence.wanted, *ids), fed.branch)
                known[*sequence.wanted, *sequence.ids] = fed.hidden
            spans = self._with_hidden(sequences, [sequence.span() for sequence in sequences], known, bill)
            return Work(spans, bill.usage)

        return await self.backend.run(work)

    async def next_tokens(
        self, prefixes: Sequence[Candidate], request: GenerationRequest, k: int, *, account: Account = UNMETERED
    ) -> Work[list[list[NextToken]]]:
        bill = Tally(account)

        def work() -> Work[list[list[NextToken]]]:
            self._prefill(bill)
            starts = self._start(self._sequences([Row(prefix) for prefix in prefixes], request), bill)
            bill.charge(Usage(model_calls=1))
            found = [self.codec.next_tokens(start.logits, k) for start in starts if start.logits is not None]
            return Work(found, bill.usage)

        return await self.backend.run(work)

    def _sequences(self, rows: Sequence[Row], request: GenerationRequest) -> list[TokenSequence]:
        assert self.prompt_ids is not None
        return [TokenSequence(row, request, self.codec, self.prompt_ids, self.constraint) for row in rows]

    async def log_probs(self, continuations: Sequence[str], *, account: Account = UNMETERED) -> Work[list[list[float]]]:
        bill = Tally(account)

        def work() -> Work[list[list[float]]]:
            self._prefill(bill)
            assert self.prefix is not None
            encoded = [self.codec.encode(text) for text in continuations]
            fed = {i: ids[:-1] for i, ids in enumerate(encoded) if len(ids) > 1}
            rest: dict[int, Tensor] = {}
            if fed:
                bill.admit(sum(map(len, fed.values())))
                behind = self._fed_behind([self.prefix.root()] * len(fed), list(fed.values()))
                rest = {i: each.logits for i, each in zip(fed, behind, strict=True)}
            bill.charge(Usage(model_calls=1))
            values = [text_log_probs(ids, self.prefix.logits, rest.get(i)) for i, ids in enumerate(encoded)]
            return Work(values, bill.usage)

        return await self.backend.run(work)

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self.backend.open_sharing(prompt, self.images)

    @property
    def resolution(self) -> float:
        return self.backend.resolution

    @property
    def prompt_tokens(self) -> PromptTokens | None:
        """See `Session.prompt_tokens`."""
        return None if self.prompt_ids is None else PromptTokens(tuple(self.prompt_ids[0].tolist()))

    def release(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            for ids in kept_as(candidate):
                self.branches.pop(ids, None)

    def close(self) -> None:
        self.prefix = None
        self.branches.clear()
        self.prefix_log_probs.clear()

    # ------------------------------------------------------------------ prefill and branching
    def _prefill(self, bill: Tally) -> None:
        """The prompt and its pictures, the first time and after a change of the model; otherwise nothing."""
        if self.epoch != self.backend.epoch:
            self.close()
            self.epoch = self.backend.epoch
        if self.prefix is not None:
            return
        inputs = self.codec.inputs(self.prompt)
        self.constraint = constraint(self.backend.model, inputs)
        self.prompt_ids = inputs["input_ids"]
        length = self.prompt_ids.shape[1]
        bill.admit(length)
        seen = self.images.misses
        with self.images.over(self.backend.running_tower if self.prompt.images else None, self.backend.epoch):
            output, rope_delta = self.backend.forward(**inputs, use_cache=True, logits_to_keep=1)
        if self.prompt.images and self.images.misses > seen:
            bill.charge(Usage(images_encoded=len(self.prompt.images)))
        self.prefix = self._read(output, inputs, rope_delta)

    def _read(self, output: Any, inputs: dict[str, Tensor], rope_delta: int) -> Prefix:
        """What is kept of a prompt's prefill."""
        cache, length = output.past_key_values, inputs["input_ids"].shape[1]
        cross_mask = inputs.get("cross_attention_mask")
        return Prefix(
            layers=[_layer(cache, index, output.logits) for index in range(len(cache.layers))],
            cross=self.backend.cross_layers,
            length=length,
            next_position=length + rope_delta,
            logits=output.logits[0, -1],
            cross_mask=None if cross_mask is None else cross_mask[:, -1:],
        )

    def _start(self, sequences: Sequence[TokenSequence], bill: Tally) -> list[Branch]:
        """The branch each row starts from, with its logits. What several rows share is computed once."""
        assert self.prefix is not None
        missing: dict[tuple[int, ...], Branch] = {}
        asked: dict[tuple[int, ...], TokenSequence] = {}
        cached = forced = 0
        for sequence in sequences:
            ids = sequence.wanted
            known = self.branches.get(ids)
            if sequence.wants_prefix and ids not in self.prefix_log_probs:
                asked[ids] = sequence
            if known is None or known.logits is None or ids in asked:
                first = ids not in missing
                known = missing.setdefault(ids, self._longest_known(sequence.row.prefix, ids, told=ids in asked))
                forced += owed(sequence.row.prefix, len(sequence.prefix_ids), known.length) if first else 0
            cached += self.prefix.length + known.length
        bill.charge(Usage(cached_tokens=cached))
        bill.admit(forced)
        if () in missing:
            self.branches[()] = missing.pop(())
        if missing:
            self._compute(missing, asked)
        for sequence in sequences:
            if sequence.wants_prefix:
                sequence.prefix_log_probs = self.prefix_log_probs[sequence.wanted]
        return [self.branches[sequence.wanted] for sequence in sequences]

    def _compute(self, missing: dict[tuple[int, ...], Branch], asked: dict[tuple[int, ...], TokenSequence]) -> None:
        """Adds branches, each from what is known of its beginning, and the log-probabilities of begin tags that are asked for."""
        fed = [ids[branch.length :] for ids, branch in missing.items()]
        for (ids, begin), grown in zip(missing.items(), self._fed_behind(list(missing.values()), fed), strict=True):
            self.branches[ids] = grown.branch
            if ids in asked:
                self.prefix_log_probs[ids] = asked[ids].behind_prefix(begin.logits, grown.logits)

    def _with_hidden(
        self,
        sequences: Sequence[TokenSequence],
        spans: list[Span],
        known: Mapping[tuple[int, ...], Hidden],
        bill: Tally,
    ) -> list[Span]:
        """The spans with the states at their last tokens, where layers are asked for."""
        layers = sequences[0].request.hidden_layers if sequences else ()
        if not layers:
            return spans
        assert self.prefix is not None
        found, missing = dict(known), dict[tuple[int, ...], Branch]()
        for sequence, span in zip(sequences, spans, strict=True):
            end = sequence.row.prefix.extended(span, 0)
            if end.token_ids not in found and sequence.may_end(end, self.prefix.length):
                missing[end.token_ids] = self._longest_known(end, end.token_ids)
                bill.admit(owed_to_end(end, missing[end.token_ids].length))
        fed = [ids[branch.length :] for ids, branch in missing.items()]
        grown = self._fed_behind(list(missing.values()), fed, layers) if missing else []
        for ids, each in zip(missing, grown, strict=True):
            self.branches[ids], found[ids] = each.branch, each.hidden
        return [
            with_states(
                span, found.get((*sequence.row.prefix.token_ids, *span.all_ids)), sequence.request.hidden_layers
            )
            for sequence, span in zip(sequences, spans, strict=True)
        ]

    def _fed_behind(
        self, branches: Sequence[Branch], fed: Sequence[Sequence[int]], layers: Sequence[int] = ()
    ) -> list[Fed]:
        """Each branch with more tokens, and the states of ``layers`` at its end."""
        assert self.prefix is not None
        output, cache, widths = self._feed(branches, fed, hidden=bool(layers))  # logits [B, L, V], left-padded
        found = []
        for row, (branch, tokens) in enumerate(zip(branches, fed, strict=True)):
            keep = self._own_places(branch.length, len(tokens), widths)
            logits = output.logits[row, -len(tokens) :]
            grown = Branch(harvest(cache, self.prefix, row, keep), branch.length + len(tokens), logits[-1])
            found.append(Fed(grown, logits, at_end(output.hidden_states, layers, row, -1) if layers else None))
        return found

    def _longest_known(self, candidate: Candidate, ids: tuple[int, ...], *, told: bool = False) -> Branch:
        """The candidate's own branch, else an ancestor's, else the bare prompt: as much as need not be computed.

        ``told``: one from which the probability of the token behind the candidate follows.
        """
        assert self.prefix is not None
        for beginning in known_beginnings(candidate):
            known = self.branches.get(beginning)
            if known is None or known.length >= len(ids):
                continue
            if not told or known.logits is not None or known.length < len(candidate.token_ids):
                return known
        return self.prefix.root()

    def _own_places(self, own: int, fed: int, widths: tuple[int, int]) -> Tensor:
        """Where in the cache a row's own tokens are: the last ``own`` before and ``fed`` after the old end."""
        assert self.prefix is not None
        old_end = self.prefix.length + widths[0]
        before = torch.arange(old_end - own, old_end)
        after = torch.arange(old_end + widths[1] - fed, old_end + widths[1])
        return torch.cat([before, after]).to(self.prefix.logits.device)

    def _feed(
        self, branches: Sequence[Branch], fed: Sequence[Sequence[int]], hidden: bool
    ) -> tuple[Any, Any, tuple[int, int]]:
        """Runs tokens behind branches, ragged, in one batch. The output (logits [B, longest fed, V]), the cache, its widths."""
        assert self.prefix is not None
        cache, mask = batch_cache(self.prefix, branches)
        device = mask.device
        ids = pad_left(fed, 0, device)
        fed_mask = pad_left([[1] * len(tokens) for tokens in fed], 0, device)
        starts = torch.tensor([branch.length for branch in branches], device=device)[:, None]
        positions = self.prefix.next_position + starts + (fed_mask.cumsum(-1) - 1).clamp_min(0)
        output, _ = self.backend.forward(
            input_ids=ids, attention_mask=torch.cat([mask, fed_mask], dim=1), position_ids=positions,
            past_key_values=cache, use_cache=True, **self._cross(len(branches), ids.shape[1]),
            **({"output_hidden_states": True} if hidden else {}),
        )  # fmt: skip
        return output, cache, (mask.shape[1] - self.prefix.length, ids.shape[1])

    def _cross(self, rows: int, tokens: int) -> dict[str, Tensor]:
        assert self.prefix is not None
        mask = self.prefix.cross_mask
        return {} if mask is None else {"cross_attention_mask": mask.expand(rows, tokens, -1, -1)}

    # ------------------------------------------------------------------ writing
    def _write(self, sequences: Sequence[TokenSequence], starts: Sequence[Branch], ended: Callable[[], bool]) -> None:
        """Decodes all rows in step until every one is done, or all have ``ended``. Branches of what was written are kept."""
        assert self.prefix is not None
        cache, mask = batch_cache(self.prefix, starts)
        own_width = mask.shape[1] - self.prefix.length
        generators = [np.random.default_rng(w.row.seed) for w in sequences]
        logits = torch.stack([s.logits for s in starts if s.logits is not None])
        lengths = torch.tensor([branch.length for branch in starts], device=mask.device)[:, None]
        ones = torch.ones(len(sequences), 1, dtype=mask.dtype, device=mask.device)
        room = self.codec.max_length - self.prefix.length
        for step in range(max(sequence.row.max_tokens for sequence in sequences)):
            late = ended()
            for sequence, branch in zip(sequences, starts, strict=True):
                sequence.done |= late or step >= min(sequence.row.max_tokens, room - branch.length)
            if all(sequence.done for sequence in sequences):
                break
            tokens, proposals = draw(
                constrained(sequences, logits.float()),
                sequences[0].request.sampling,
                uniforms(generators, 1, logits.device)[:, 0],
            )  # [B]
            statistics = proposals, *token_statistics(logits.float(), tokens)
            take(sequences, tokens[None], *(values[None] for values in statistics))
            if all(sequence.done for sequence in sequences):
                break
            mask = torch.cat([mask, ones], dim=1)
            output, _ = self.backend.forward(
                input_ids=tokens[:, None], attention_mask=mask,
                position_ids=self.prefix.next_position + lengths + step,
                past_key_values=cache, use_cache=True, **self._cross(len(sequences), 1),
            )  # fmt: skip
            logits = output.logits[:, -1]
        for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            fed = max(0, len(sequence.ids) - 1)  # the last token's keys are not computed yet
            begin = self.prefix.length + own_width - start.length
            keep = torch.arange(begin, begin + start.length + fed, device=mask.device)
            ids = (*sequence.wanted, *sequence.ids)
            self.branches.setdefault(ids, Branch(harvest(cache, self.prefix, row, keep), start.length + fed))


def _layer(cache: object, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's keys and values; an empty pair for one that the model skipped."""
    layer = cache.layers[index]  # type: ignore[attr-defined]
    if not layer.is_initialized or layer.keys.numel() == 0:
        empty = like.new_zeros(1, 1, 0, 1)
        return empty, empty
    return layer.keys, layer.values
