"""The plain engine for models whose memory is more than keys and values of all tokens.

Sliding windows and chunks forget, linear attention and convolutions keep states, layers share keys: each is right only
as the model's own cache has it, fed one token at a time as `generate` does. So the prompt's cache is copied whole for
every branch, rows that start from one branch are decoded together, and a row leaves the batch when it is done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from structdecode.backends.transformers.constraints import constrained
from structdecode.backends.transformers.hidden import at_end
from structdecode.backends.transformers.plain.session import Fed, PlainSession
from structdecode.backends.transformers.sampling import draw, token_statistics, uniforms
from structdecode.backends.transformers.sequences import TokenSequence, take

_FIRST_POSITION_IS_ONE = frozenset({"paligemma"})
"""Model types (of the whole model) that number positions from 1, and see the pictures' tokens in both directions."""


def needs_steps(model: nn.Module, text_configs: Sequence[Any]) -> bool:
    """Whether a model's memory is not one pair of keys and values for every token and layer."""
    if getattr(model.config, "model_type", "") in _FIRST_POSITION_IS_ONE:
        return True
    return any(
        getattr(config, "num_kv_shared_layers", 0)
        or any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers)
        for config in text_configs
        if hasattr(config, "num_hidden_layers")  # Chameleon's decoder holds its codebook's, too
    )


@dataclass
class State:
    """All that the model remembers of a prompt and an answer's first ``length`` tokens.

    Attributes:
        cache: of one row. logits: [V] behind the last token, where they are known.
    """

    cache: Any
    length: int
    logits: Tensor | None

    def forked(self, rows: Sequence[int]) -> Any:
        """A cache of its own with the rows given; [0, 0] are two of the first."""
        cache = copy.deepcopy(self.cache)
        cache.reorder_cache(torch.tensor(rows))
        return cache


@dataclass
class Remembered:
    """A prompt, read. As `plain.kv.Prefix`, with the model's own cache in it."""

    cache: Any
    length: int
    next_position: int | None
    logits: Tensor
    cross_mask: Tensor | None

    def root(self) -> State:
        return State(self.cache, 0, self.logits)


class StepwiseSession(PlainSession):
    """See `structdecode.core.protocols.Session`."""

    prefix: Remembered | None  # type: ignore[assignment]
    branches: dict[tuple[int, ...], State]  # type: ignore[assignment]

    def _read(self, output: Any, inputs: dict[str, Tensor], rope_delta: int) -> Remembered:  # type: ignore[override]
        length, mask = inputs["input_ids"].shape[1], inputs.get("cross_attention_mask")
        return Remembered(
            output.past_key_values, length, length + rope_delta if self.backend.rotates else None,
            output.logits[0, -1], None if mask is None else mask[:, -1:],
        )  # fmt: skip

    def _fed_behind(  # type: ignore[override]
        self, branches: Sequence[State], fed: Sequence[Sequence[int]], layers: Sequence[int] = ()
    ) -> list[Fed]:
        return [self._fed(known, tokens, layers) for known, tokens in zip(branches, fed, strict=True)]

    def _fed(self, known: State, tokens: Sequence[int], layers: Sequence[int]) -> Fed:
        """What is remembered behind more tokens."""
        cache, logits, hidden = known.forked([0]), [], None
        for at, token in enumerate(tokens):
            last = bool(layers) and at == len(tokens) - 1
            one = torch.tensor([token], device=self.backend.model.device)
            output = self._stepped(cache, one, known.length + at, hidden=last)
            logits.append(output.logits[0, -1])
            hidden = at_end(output.hidden_states, layers, 0, -1) if last else None
        return Fed(State(cache, known.length + len(tokens), logits[-1]), torch.stack(logits), hidden)

    def _step(self, cache: Any, tokens: Tensor, length: int) -> Tensor:
        """One token a row behind ``length`` tokens of answer. [n] -> [n, V]"""
        logits: Tensor = self._stepped(cache, tokens, length).logits[:, -1]
        return logits

    def _stepped(self, cache: Any, tokens: Tensor, length: int, hidden: bool = False) -> Any:
        """The model's output on these tokens, [n]."""
        assert self.prefix is not None
        rows, position = len(tokens), self.prefix.next_position
        more: dict[str, Tensor] = {}
        if position is not None:  # the model does not number them itself
            more["position_ids"] = torch.full((rows, 1), position + length, device=tokens.device)
        output, _ = self.backend.forward(
            input_ids=tokens[:, None], past_key_values=cache, use_cache=True,
            attention_mask=tokens.new_ones(rows, self.prefix.length + length + 1), **more, **self._cross(rows, 1),
            **({"output_hidden_states": True} if hidden else {}),
        )  # fmt: skip
        return output

    # ------------------------------------------------------------------ writing
    def _write(self, sequences: Sequence[TokenSequence], starts: Sequence[State], ended: Callable[[], bool]) -> None:  # type: ignore[override]
        groups: dict[tuple[int, ...], list[TokenSequence]] = {}
        for sequence in sequences:
            groups.setdefault(sequence.wanted, []).append(sequence)
        begins = {sequence.wanted: start for sequence, start in zip(sequences, starts, strict=True)}
        for ids, group in groups.items():
            self._write_together(group, begins[ids], ended)

    def _write_together(self, live: list[TokenSequence], start: State, ended: Callable[[], bool]) -> None:
        """Rows that begin at one place, until all are done."""
        assert self.prefix is not None and start.logits is not None
        state = State(start.forked([0] * len(live)), start.length, None)
        logits = start.logits.expand(len(live), -1)
        generators = [np.random.default_rng(sequence.row.seed) for sequence in live]
        room = self.codec.max_length - self.prefix.length - start.length
        while True:
            late = ended()
            for sequence in live:
                sequence.done |= late or len(sequence.ids) >= min(sequence.row.max_tokens, room)
            going = [at for at, sequence in enumerate(live) if not sequence.done]
            state = self._leave(live, going, state)
            live, generators, logits = [live[i] for i in going], [generators[i] for i in going], logits[going]
            if not live:
                return
            tokens, proposals = draw(
                constrained(live, logits.float()),
                live[0].request.sampling,
                uniforms(generators, 1, logits.device)[:, 0],
            )  # [n]
            statistics = proposals, *token_statistics(logits.float(), tokens)
            take(live, tokens[None], *(values[None] for values in statistics))
            going = [at for at, sequence in enumerate(live) if not sequence.done]
            state = self._leave(live, going, state)
            live, generators, tokens = [live[i] for i in going], [generators[i] for i in going], tokens[going]
            if not live:
                return
            logits = self._step(state.cache, tokens, state.length)
            state.length += 1

    def _leave(self, live: list[TokenSequence], going: list[int], state: State) -> State:
        """Keeps what is remembered of the rows that are done, and goes on with the others alone."""
        if len(going) == len(live):
            return state
        for at, sequence in enumerate(live):
            if sequence.done:
                ids = (*sequence.wanted, *sequence.ids)
                self.branches.setdefault(ids, State(state.forked([at]), state.length, None))
        return State(state.forked(going), state.length, None) if going else state
