"""Prompts to model inputs, text to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structdecode.backends.transformers.controls import Escaper, control_tokens
from structdecode.backends.transformers.templates import SECONDS, rendered, within
from structdecode.core.errors import ConfigError, PromptError
from structdecode.core.protocols import ForcedText, GenerationRequest
from structdecode.core.reading import short_repr
from structdecode.core.tags import to_put_in
from structdecode.core.types import Message, NextToken, Prompt, Span

if TYPE_CHECKING:
    from structdecode.backends.transformers.sequences import TokenSequence

_FOR_TRAINING = frozenset({"labels"})
"""What some processors (PaliGemma's) give with every prompt."""
_REMEMBERED = 4096
"""Texts whose tokens are kept."""


class Codec:
    """A processor's text side, as the sessions need it."""

    def __init__(self, processor: Any, model: Any) -> None:
        self.processor, self.tokenizer, self._model = processor, processor.tokenizer, model
        self.end_of_text = frozenset(_as_list(model.generation_config.eos_token_id)) | frozenset(
            _as_list(self.tokenizer.eos_token_id)
        )
        self._as_text = Escaper(control_tokens(processor, model.config))
        text_config = model.config.get_text_config()
        self._may_end: dict[tuple[int, str], bool] = {}
        self._encoded = lru_cache(_REMEMBERED)(self._encode)  # several threads ask
        self.vocabulary = int(text_config.vocab_size)
        self.max_length: int = getattr(text_config, "max_position_embeddings", None) or 1 << 30

    def inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        """What the model's forward takes for a prompt: ``input_ids`` [1, L] and the pictures' tensors.

        Raises:
            PromptError: the chat template or the processor refuses it, or it is longer than the model's context.
        """
        try:
            text = within(SECONDS, lambda: rendered(self.processor, self._messages(prompt)))
            bos = self.tokenizer.bos_token
            batch = self.processor(
                text=[text],
                images=[[p.image for p in prompt.images]] if prompt.images else None,
                add_special_tokens=not (bos and text.startswith(bos)),
                return_tensors="pt",
            )
        except Exception as error:  # templates and processors raise whatever they like on input they cannot take
            first = str(error).strip().split("\n")[0]
            raise PromptError(f"the model's processor refuses the prompt: {type(error).__name__}: {first}") from error
        length = batch["input_ids"].shape[1]
        if length >= self.max_length:
            raise PromptError(f"the prompt has {length} tokens, the model's context {self.max_length}: shorten it")
        return self.placed(
            {key: value for key, value in batch.items() if isinstance(value, Tensor) and key not in _FOR_TRAINING}
        )

    def placed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs where the model is now, and of its type."""
        device, dtype = self._model.device, self._model.dtype
        return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        turns = [*prompt.history, Message("user", prompt.question)]
        messages = [{"role": turn.role, "content": self._parts(turn.text)} for turn in turns]
        if prompt.images:
            first = next(at for at, turn in enumerate(turns) if turn.role == "user")
            text, place = turns[first].text, prompt.images_at
            pictures = [{"type": "image"} for _ in prompt.images]
            messages[first]["content"] = [*self._parts(text[:place]), *pictures, *self._parts(text[place:])]
        return messages

    def _parts(self, text: str) -> list[dict[str, str]]:
        """A text in a turn; none where it is empty."""
        return [{"type": "text", "text": self._as_text(text)}] if text else []

    def around_answer(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that the chat template puts before and behind the assistant's turn in a finished chat, beyond those of
        the prompt.

        Raises:
            PromptError: a finished chat begins otherwise than the prompt does.
        """
        mark = "\ue000"
        asked = self._messages(prompt)
        answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": mark}]}]
        before = within(SECONDS, lambda: rendered(self.processor, asked))
        begun, _, end = within(SECONDS, lambda: rendered(self.processor, answered, generate=False)).rpartition(mark)
        if not begun.startswith(before):
            raise PromptError("the model's chat template writes a finished answer's turn otherwise than one to come")
        return self._encode(begun[len(before) :]), self._encode(end)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of text put into an answer, nothing added around it. Tags come again and again: they are remembered."""
        return self._encoded(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def pieces(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of a text that is read piece by piece: those that the whole has. Control tokens in it stay text.

        A piece that would share a token with the one before it has tokens of its own.
        """
        found: list[tuple[int, ...]] = []
        before: tuple[int, ...] = ()
        for end, piece in enumerate(texts, 1):
            whole = self._encode(self._as_text("".join(texts[:end])))
            alone = whole[: len(before)] != before
            found.append(self._encode(self._as_text(piece)) if alone else whole[len(before) :])
            before = (*before, *found[-1])
        return found

    def forced(self, text: ForcedText, request: GenerationRequest) -> tuple[int, ...]:
        """Tokens of text that is put in as a stage."""
        if isinstance(text, Span):
            return (*text.token_ids, *text.suffix_ids)
        if not isinstance(text, str):
            wrong = [i for i in text if type(i) is not int or not 0 <= i < self.vocabulary]
            if wrong:
                raise ConfigError(
                    f"{short_repr(wrong[0])} is no token of the model: ids go from 0 to {self.vocabulary - 1}"
                )
            return tuple(text)
        body, closing = to_put_in(text, request.stage, leave_open=request.leave_open)
        return self._encode(self._as_text(body) + closing)

    def next_tokens(self, logits: Tensor, k: int) -> list[NextToken]:
        """The ``k`` likeliest of the logits [V]."""
        best = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [NextToken(token, self.decode([token]), log_prob) for token, log_prob in pairs]

    def check_room(self, prompt: int, sequences: Sequence[TokenSequence], texts: Sequence[Sequence[int]]) -> None:
        """Raises `PromptError` where a text behind a prompt of ``prompt`` tokens, and an answer, would not fit."""
        for sequence, ids in zip(sequences, texts, strict=True):
            length = prompt + len(sequence.wanted) + len(ids)
            if length > self.max_length:
                raise PromptError(
                    f"the text put in for {sequence.request.stage.name!r} ends at token {length}, the model's context "
                    f"is {self.max_length}: shorten it"
                )

    def may_end(self, token: int, stop: str) -> bool:
        """Whether a token can be the last of those that spell a stop: cheap, and never wrongly False."""
        key = (token, stop)
        if key not in self._may_end:
            plain = stop.isascii() and not stop[-1].isspace()  # a lone token may lose its space, or be half a letter
            self._may_end[key] = not plain or stop[-1] in self.decode([token])
        return self._may_end[key]

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, joined `decode`'s: a letter that several tokens share is the last one's."""
        alone = [self.decode([token]) for token in ids]
        if "".join(alone) == self.decode(ids):
            return alone
        texts, seen = [], ""
        for end in range(1, len(ids) + 1):
            so_far = self.decode(ids[:end])
            whole = so_far if end == len(ids) else so_far.rstrip("\ufffd")
            texts.append(whole[len(seen) :] if whole.startswith(seen) else "")
            seen = whole if whole.startswith(seen) else seen
        return texts

    def decode(self, ids: Sequence[int]) -> str:
        """Exact text of an answer's tokens, special ones included (a tag may be one)."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def pad_left(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """[B, longest]"""
    width = max(map(len, rows))
    return torch.tensor([[value] * (width - len(row)) + list(row) for row in rows], device=device)


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
