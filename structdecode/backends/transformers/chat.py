"""Where in a rendered chat the assistant's words are: the characters and tokens that a model is trained to write.

How they are found, for any chat template: the chat is rendered twice, once as it is and once with each text replaced by
a mark. The second rendering shows what the template itself writes between the texts, so the first can be taken apart
exactly, whatever the texts say: a question that holds "<|assistant|>" or a stage's tags is just a text. Characters
become tokens through the offsets of the (fast) tokenizer.

A template's generation prompt may end before the body begins ("ASSISTANT:", then a space): what the model has to write
between the two carries loss as well, and so does a token that reaches over the border.

Why not `return_assistant_tokens_mask`: it needs ``{% generation %}`` in the template, which those of Llama 3.2 Vision,
Qwen2.5-VL and Idefics3 lack; and its mask may leave out the end-of-turn token, without which a model never learns to stop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from structdecode.backends.transformers.templates import SECONDS, rendered, within
from structdecode.core.errors import ModelError
from structdecode.core.problems import BadRow

Message = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A chat as one text.

    Attributes:
        spans: for each assistant turn where the generation prompt ends (nearly always: where the body begins) and where
            the end-of-turn token ends, in characters.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tokens:
    """Token ids of a rendered chat, pictures not expanded, and which of them carry loss. Both of one length."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


class ChatRenderer:
    """A processor's chat template and tokenizer.

    Raises:
        ModelError: the tokenizer cannot tell where in the text a token is.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(self.tokenizer).__name__} has no character offsets: training needs a fast tokenizer "
                "(tokenizer.json beside the checkpoint)"
            )
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        self.special = tuple(sorted(special, key=lambda token: (-len(token), token)))
        self.image_token: str | None = getattr(processor, "image_token", None)

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Renders a chat that ends with an assistant turn.

        Where the template writes nothing behind the last assistant turn that ends it (LLaVA-1.5's does not), the
        tokenizer's end-of-text token is put behind each assistant turn.

        Raises:
            ModelError: the template refuses the chat, or leaves turns out.
            BadRow: it changes a text in it, or a text holds the model's own mark for a picture: the processor would
                look for one more.
        """
        for message in messages:
            for part in message["content"]:
                if self.image_token and part["type"] == "text" and self.image_token in part["text"]:
                    problem = f"{self.image_token!r} in a text of the {message['role']}'s: take it out"
                    raise BadRow("image-token-in-text", problem)
        texts = [part["text"] for m in messages for part in m["content"] if part["type"] == "text"]
        roles = [m["role"] for m in messages for part in m["content"] if part["type"] == "text"]
        if len(texts) != len(messages) or roles[-1:] != ["assistant"]:
            raise ModelError("a chat to train on has one text a message, and its last one is the assistant's")
        text, (pieces, leads) = self._apply(messages), self._pieces(messages, texts)
        end = self._end_of_turn(pieces[-1])
        whole, spans, at = "", [], 0
        for number, (role, body) in enumerate(zip(roles, texts, strict=True)):
            whole += pieces[number]
            at += len(pieces[number])
            form = self._as_written(text, at, body, pieces[number + 1], number)
            at += len(form)
            if role != "assistant":
                whole += form
                continue
            there = bool(end) and pieces[number + 1].startswith(end)
            closing = end or self._end_of_text()
            spans.append((len(whole) - leads[number], len(whole) + len(form) + len(closing)))
            whole += form if there else form + closing
        if at + len(pieces[-1]) != len(text) or not text.startswith(pieces[0]):
            raise BadRow("rewritten-text", "the chat template writes more or less than the texts: leave the row out")
        return Rendered(whole + pieces[-1], tuple(spans))

    def tokens(self, rendered: Rendered) -> Tokens:
        """Tokens that reach into an assistant's body or are its end-of-turn token carry loss."""
        encoding = self.tokenizer(
            rendered.text, add_special_tokens=self.adds_special(rendered.text), return_offsets_mapping=True
        )
        offsets = encoding["offset_mapping"]
        trained = [False] * len(offsets)
        for begin, end in rendered.spans:
            inside = [i for i, (first, last) in enumerate(offsets) if last > begin and first < end]
            # all between the first and the last: a token that is only white space may have an empty offset
            for i in range(inside[0], inside[-1] + 1):
                trained[i] = True
        return Tokens(tuple(encoding["input_ids"]), tuple(trained))

    def adds_special(self, text: str) -> bool:
        """Whether the tokenizer has to put its beginning-of-text token there because the template did not."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def special_in(self, text: str) -> str | None:
        """The first special token of the tokenizer's that a text spells out."""
        return next((token for token in self.special if token in text), None)

    def _apply(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        try:
            return within(SECONDS, lambda: rendered(self.processor, messages, generate=prompt))
        except Exception as error:  # a template raises whatever it likes
            first = str(error).strip().split("\n")[0]
            raise ModelError(f"the chat template refuses the chat: {type(error).__name__}: {first}") from error

    def _pieces(self, messages: Sequence[Message], texts: Sequence[str]) -> tuple[list[str], list[int]]:
        """What the template writes before, between and behind the texts: one piece more than there are texts.

        And for each text how much of the white space before it is not part of the generation prompt.
        """
        mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if not any(c in text for text in texts))
        numbers = iter(range(len(texts)))
        marked = [
            {**m, "content": [{**p, "text": f"{mark}{next(numbers)}{mark}"} if p["type"] == "text" else p for p in m["content"]]}
            for m in messages
        ]  # fmt: skip
        skeleton = self._apply(marked)
        parts = re.split(f"{mark}(\\d+){mark}", skeleton)
        if parts[1::2] != [str(number) for number in range(len(texts))]:
            raise ModelError("the chat template leaves out, repeats or reorders turns: use another template")
        leads = [0] * len(texts)
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before, prompt = skeleton.split(f"{mark}{number}{mark}")[0], self._apply(marked[:number], prompt=True)
                if before.startswith(prompt) and not before[len(prompt) :].strip():
                    leads[number] = len(before) - len(prompt)
        return parts[::2], leads

    @staticmethod
    def _as_written(text: str, at: int, body: str, following: str, number: int) -> str:
        """The body as the template wrote it: as it is, or without white space around it."""
        for form in (body, body.strip(), body.lstrip(), body.rstrip()):
            if text.startswith(form + following, at):
                return form
        raise BadRow("rewritten-text", f"the chat template rewrites the text of turn {number + 1}: leave the row out")

    def _end_of_turn(self, tail: str) -> str:
        """White space and the special token that the template writes behind the last assistant turn, or nothing."""
        bare = tail.lstrip()
        token = next((token for token in self.special if bare.startswith(token)), "")
        return tail[: len(tail) - len(bare)] + token if token else ""

    def _end_of_text(self) -> str:
        token = self.tokenizer.eos_token
        if not token:
            raise ModelError("neither the chat template nor the tokenizer ends a turn: set the tokenizer's eos_token")
        return str(token)
