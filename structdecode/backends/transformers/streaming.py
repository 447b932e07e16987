"""A row's text as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from structdecode.core.tags import begun


class TextStream:
    """Tells text as its tokens come: whole characters only, and nothing of a stop, which may come in many tokens.

    A tokenizer may write the same token otherwise at the beginning of a text, so each piece is decoded behind the piece
    before it (as vLLM's incremental detokenizer does); a piece costs no more the longer the text is.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str],
        tell: Callable[[str | None], None],
        before: Sequence[int] = (),
        held: str = "",
    ) -> None:
        """``before``: tokens that the text continues; what they say is not told, but for its end ``held``, which may
        begin a stop.
        """
        self._decode, self._stops, self._tell = decode, stops, tell
        self._before, self._held_before = tuple(before), held
        self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = list(self._before)
        self._known, self._read = 0, len(self._ids)
        while self._read and self._decode(self._ids[: self._read]).endswith("\ufffd"):
            self._read -= 1  # of a character that continues in the tokens to come nothing was told
        self._held = self._held_before
        self._stopped = False

    def restart(self) -> None:
        self._begin()
        self._tell(None)

    def add(self, token: int) -> None:
        self._ids.append(token)
        piece = self._unread()
        if not piece.endswith("\ufffd"):
            self._known, self._read = self._read, len(self._ids)
            self._put(piece)

    def end(self) -> None:
        """Tells what was held back in case a stop began with it."""
        self._put(self._unread().rstrip("\ufffd"))
        if self._held and not self._stopped:
            self._tell(self._held)
        self._stopped = True

    def _unread(self) -> str:
        """What the tokens say that were not told yet."""
        before = self._decode(self._ids[self._known : self._read])
        return self._decode(self._ids[self._known :])[len(before) :]

    def _put(self, piece: str) -> None:
        if self._stopped:
            return
        text = self._held + piece
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self._stopped, text, self._held = True, text[: min(places)], ""
        else:
            self._held = max((begun(stop, text) for stop in self._stops), key=len, default="")
            text = text[: len(text) - len(self._held)]
        if text:
            self._tell(text)
