"""Training examples from a LLaVA-CoT JSONL file, read when they are asked for.

The file is read once to find its rows. What stays in memory is a byte offset and a length a row; texts and pictures are
read again on access, so a set of any size costs a few bytes a row, in each worker of a `DataLoader` too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from structdecode.errors import DataError, ImageError
from structdecode.evaluation.data.files import json_rows
from structdecode.evaluation.data.pictures import Pictures
from structdecode.evaluation.data.problems import BadRow
from structdecode.evaluation.data.rows import Row
from structdecode.evaluation.types import Rejected
from structdecode.images import ImageSource, load_picture
from structdecode.schemas import LLAVA_O1
from structdecode.training.chat import Message
from structdecode.training.conversations import Conversation, conversation_of
from structdecode.training.lengths import TokenCounter
from structdecode.types import Schema

_BYTES_A_TOKEN, _TOKENS_A_PICTURE = 4, 256
"""Rough figures for lengths that only decide which examples share a batch."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A chat that ends with an assistant turn, its pictures decoded (RGB), and "file:line"."""

    id: str
    messages: list[Message]
    images: tuple[Image.Image, ...]
    source: str


class ConversationDataset(Dataset[Example]):
    """The good rows of a file, in its order; bad ones are in ``rejected`` and left out.

    Whether a picture is there and can be decoded is seen when it is needed.

    Attributes:
        lengths: [N] roughly the tokens of each example; for `BucketSampler`.
        pictures: [N] how many each example has.
        rejected: rows that were left out, with the reason.
    """

    def __init__(self, path: str | Path, *, images: str | Path | None = None, schema: Schema = LLAVA_O1) -> None:
        """Reads the file once; pictures are only named then, not opened.

        Args:
            path: the JSONL file.
            images: the folder that picture paths are relative to and may not leave; else that of the file.
            schema: the stages that answers are checked for, and the instruction around questions.

        Raises:
            DataError: the file cannot be read, or has no good row.
        """
        self.path, self.schema = Path(path), schema
        self.images = Path(images) if images is not None else self.path.parent
        starts = line_starts(self.path)
        lines, lengths, pictures, self.rejected = [], [], [], list[Rejected]()
        for row in json_rows(self.path):
            found = self._examined(row)
            if isinstance(found, Rejected):
                self.rejected.append(found)
                continue
            lines.append(found.line)
            pictures.append(len(found.images))
            text = sum(len(pair.question.encode()) + len(pair.answer.encode()) for pair in found.pairs)
            lengths.append(text // _BYTES_A_TOKEN + _TOKENS_A_PICTURE * len(found.images))
        if not lines:
            raise DataError(f"{self.path}: none of {len(self.rejected)} rows is good: run `structdecode data check`")
        self.lines: NDArray[np.int64] = np.array(lines, dtype=np.int64)
        self.offsets: NDArray[np.int64] = starts[self.lines - 1]
        self.lengths: NDArray[np.int64] = np.array(lengths, dtype=np.int64)
        self.pictures: NDArray[np.int64] = np.array(pictures, dtype=np.int64)

    def _examined(self, row: Row | Rejected) -> Conversation | Rejected:
        if isinstance(row, Rejected):
            return row
        try:
            conversation = conversation_of(row, self.schema)
            for cell in conversation.images:
                self._source(cell)
            return conversation
        except BadRow as bad:
            return bad.rejected(str(self.path), row.line)

    def __len__(self) -> int:
        return len(self.offsets)

    def conversation(self, index: int) -> Conversation:
        """A row without its pictures.

        Raises:
            DataError: the file is no longer what it was when it was indexed.
        """
        index = range(len(self))[index]  # an IndexError where there is none ends a loop over the set
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            data = file.readline()
        line = int(self.lines[index])
        try:
            cells = json.loads(data.decode().removeprefix("\ufeff"), parse_float=Decimal)
            return conversation_of(Row(line, cells), self.schema)
        except (ValueError, BadRow, AttributeError):
            raise DataError(f"{self.path}:{line}: the file changed since it was opened: start again") from None

    def __getitem__(self, index: int) -> Example:
        """An example with its pictures decoded.

        Where a picture cannot be used, the next example that can be read takes its place, and a warning says so:
        a long run does not end for one file. `structdecode data check` finds such rows before.

        Raises:
            DataError: no example has pictures that can be used, or the file changed.
        """
        first = range(len(self))[index]
        for at in chain(range(first, len(self)), range(first)):
            conversation = self.conversation(at)
            try:
                images = tuple(load_picture(self._source(cell)).image for cell in conversation.images)
            except ImageError as error:
                _log.warning("%s:%s: %s; the next example takes its place", self.path, conversation.line, error)
                continue
            where = f"{self.path}:{conversation.line}"
            return Example(conversation.id, conversation.messages(self.schema), images, where)
        raise DataError(f"{self.path}: no picture can be used: give the right folder of pictures")

    def _source(self, cell: Any) -> ImageSource:
        """Path or bytes. Raises `BadRow` where the cell names nothing that may be opened."""
        (source,) = _Named(self.images).sources(cell)
        return source

    def without_longer_than(self, max_length: int, counter: TokenCounter) -> ConversationDataset:
        """The same set without examples of more than ``max_length`` tokens, which are added to ``rejected``.

        ``lengths`` are exact afterwards. Headers of pictures are read for their size.
        """
        kept, lengths, rejected = [], [], []
        for index in range(len(self)):
            conversation = self.conversation(index)
            try:
                length = counter.of_chat(conversation.messages(self.schema), self._sizes(conversation))
                if length > max_length:
                    raise BadRow("too-long", too_long(length, max_length))
            except BadRow as bad:
                rejected.append(bad.rejected(str(self.path), conversation.line))
                continue
            kept.append(index)
            lengths.append(length)
        if not kept:
            raise DataError(f"{self.path}: no example has at most {max_length} tokens: raise max_length")
        other = self.only(kept)
        other.lengths, other.rejected = np.array(lengths, dtype=np.int64), [*self.rejected, *rejected]
        return other

    def only(self, kept: Sequence[int] | NDArray[Any]) -> ConversationDataset:
        """The same set with these examples only: indices, or a mask [N]."""
        other = copy(self)
        other.lines, other.offsets = self.lines[kept], self.offsets[kept]
        other.lengths, other.pictures = self.lengths[kept], self.pictures[kept]
        return other

    def _sizes(self, conversation: Conversation) -> list[tuple[int, int]]:
        """Of the pictures; none where one cannot be read, which is found again, and said, on access."""
        try:
            return [upright_size(self._source(cell)) for cell in conversation.images]
        except ImageError:
            return []


class _Named(Pictures):
    """Pictures that are found by name, and not read before they are decoded."""

    def _look(self, path: Path) -> str:
        return ""


def too_long(length: int, max_length: int) -> str:
    return f"{length} tokens, more than {max_length}: raise max_length, shorten it or leave it out"


def upright_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of a stored picture as `load_picture` gives it; only its header is read."""
    try:
        with Image.open(source) if isinstance(source, str | Path) else load_picture(source).image as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: 5 to 8 lie on their side
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:  # decoders raise anything on damaged bytes
        name = source if isinstance(source, str | Path) else "a picture in the row"
        raise ImageError(f"{name}: {error}") from None


def line_starts(path: Path) -> NDArray[np.int64]:
    """[lines] the byte offset of each physical line. Raises `DataError` where the file cannot be opened."""

    def starts() -> Iterator[int]:
        at = 0
        with path.open("rb") as file:
            for line in file:
                yield at
                at += len(line)

    try:
        return np.fromiter(starts(), dtype=np.int64)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
