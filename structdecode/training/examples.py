"""Training examples from a LLaVA-CoT JSONL file, read when they are asked for.

The file is read once to find its rows. What stays in memory is a byte offset and a length a row; texts and pictures are
read again on access, so a set of any size costs a few bytes a row, in each worker of a `DataLoader` too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from structdecode.backends.transformers.collate import Example, too_long
from structdecode.core.errors import DataError, ImageError
from structdecode.core.images import ImageSource, load_picture
from structdecode.core.problems import BadRow, Rejected
from structdecode.core.reading import open_regular
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Schema
from structdecode.data.files import json_rows
from structdecode.data.pictures import Pictures
from structdecode.data.rows import Row
from structdecode.training.check import PictureDecoder
from structdecode.training.conversations import Conversation, conversation_of
from structdecode.training.lengths import TokenCounter
from structdecode.training.usable import examined, split_usable

_BYTES_A_TOKEN, _TOKENS_A_PICTURE = 4, 256
"""Rough figures for lengths that only decide which examples share a batch."""


class ConversationDataset(Dataset[Example]):
    """The good rows of a file, in its order; bad ones are in ``rejected`` and left out.

    Whether a picture is there and can be decoded is seen by `usable`, or when it is needed.

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
        with open_regular(self.path) as file:
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

        Raises:
            DataError: a picture of it cannot be used (`usable` finds such rows before), or the file changed.
        """
        conversation = self.conversation(index)
        where = f"{self.path}:{conversation.line}"
        try:
            images = tuple(load_picture(self._source(cell)).image for cell in conversation.images)
        except ImageError as error:
            raise DataError(f"{where}: {error}: leave the row out (structdecode data check --fix)") from None
        return Example(conversation.id, conversation.messages(self.schema), images, where)

    def _source(self, cell: Any) -> ImageSource:
        """Path or bytes. Raises `BadRow` where the cell names nothing that may be opened."""
        (source,) = _Named(self.images).sources(cell)
        return source

    def usable(self, counter: TokenCounter, max_length: int | None = None) -> ConversationDataset:
        """The same set without examples that a model cannot be trained on, which are added to ``rejected``.

        These are the ones with a picture that is not there or cannot be decoded, with a text that the chat template
        or the processor does not take, and of more than ``max_length`` tokens. ``lengths`` are exact afterwards.

        Raises:
            DataError: none is left.
        """
        decoder = PictureDecoder(self.images)

        def sizes_of(index: int) -> list[tuple[int, int]]:
            return [decoder.look(cell)[0] for cell in self.conversation(index).images]

        def length_of(index: int, sizes: Sequence[tuple[int, int]]) -> int:
            length = counter.of_chat(self.conversation(index).messages(self.schema), sizes)
            if max_length is not None and length > max_length:
                raise BadRow("too-long", too_long(length, max_length))
            return length

        found = split_usable(examined(len(self), sizes_of, length_of), self.path, self.lines, self.rejected)
        other = self.only(found.kept)
        other.lengths, other.rejected = found.lengths, found.rejected
        return other

    def only(self, kept: Sequence[int] | NDArray[Any]) -> ConversationDataset:
        """The same set with these examples only: indices, or a mask [N]."""
        other = copy(self)
        other.lines, other.offsets = self.lines[kept], self.offsets[kept]
        other.lengths, other.pictures = self.lengths[kept], self.pictures[kept]
        return other


class _Named(Pictures):
    """Pictures that are found by name, and not read before they are decoded."""

    def _look(self, path: Path) -> str:
        return ""


def line_starts(path: Path) -> NDArray[np.int64]:
    """[lines] the byte offset of each physical line. Raises `DataError` where the file cannot be opened."""

    def starts() -> Iterator[int]:
        at = 0
        with open_regular(path) as file:
            for line in file:
                yield at
                at += len(line)

    try:
        return np.fromiter(starts(), dtype=np.int64)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
