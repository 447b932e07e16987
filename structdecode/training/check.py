"""Validates a LLaVA-CoT style set before money is spent on GPUs.

Rows are read one after the other and forgotten; pictures are decoded in threads, a few dozen at a time. What is kept is
one number a stage, and short digests of ids and contents.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from structdecode.core.errors import ConfigError, DataError, ImageError
from structdecode.core.images import load_picture
from structdecode.core.paths import atomic
from structdecode.core.problems import BadRow, Rejected, shown
from structdecode.core.reading import open_regular
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Schema
from structdecode.data.files import json_rows
from structdecode.data.pictures import Pictures
from structdecode.data.rows import Row
from structdecode.training.check_report import CheckReport
from structdecode.training.conversations import Conversation, examine
from structdecode.training.problems import kind

if TYPE_CHECKING:
    from structdecode.training.lengths import TokenCounter

Size = tuple[int, int]


@dataclass(frozen=True)
class Limits:
    """What a row is measured by: a model's tokenizer and how many tokens are allowed (None: any number)."""

    counter: TokenCounter | None = None
    max_length: int | None = None


@dataclass
class Looked:
    """A row after the threads are done with it."""

    line: int
    conversation: Conversation | None = None
    problems: list[BadRow] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)


class PictureDecoder:
    """Decodes each picture once, however many rows name it; remembers its size and the digest of its bytes."""

    def __init__(self, root: Path) -> None:
        self.pictures = Pictures(root)
        self._known: dict[Path, tuple[Size, str] | BadRow] = {}

    def look(self, cell: Any) -> tuple[Size, str]:
        """Raises `BadRow` where it cannot be used."""
        if not isinstance(cell, str) or cell.startswith("data:"):
            return self._decoded(cell)
        name = Path(cell)
        if name not in self._known:
            try:
                self._known[name] = self._decoded(cell)
            except BadRow as bad:
                self._known[name] = bad
        found = self._known[name]
        if isinstance(found, BadRow):
            raise BadRow(found.problem, str(found))
        return found

    def _decoded(self, cell: Any) -> tuple[Size, str]:
        (source,) = self.pictures.sources(cell)
        try:
            size = load_picture(source).image.size
        except ImageError as error:
            raise BadRow("broken-image", str(error)) from None
        return size, self.pictures.digest(source)


def check(
    path: Path,
    *,
    images: Path | None = None,
    schema: Schema = LLAVA_O1,
    limits: Limits | None = None,
    fix: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda line: None,
) -> CheckReport:
    """Examines every row of a JSONL file, with its pictures.

    Args:
        images: the folder that picture paths are relative to and may not leave; else that of the file.
        fix: where to write the good rows: those without an error that are no copies of an earlier one, byte for byte.
            The file appears when all rows are done.
        workers: threads that decode pictures; else one for each processor.
        progress: called with the number of each line that is done.

    Raises:
        DataError: the file cannot be read or holds no rows.
        ConfigError: ``fix`` would overwrite the set itself, or cannot be written.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    if images is not None and not images.is_dir():
        raise ConfigError(f"{images}: no such folder of pictures")
    report = CheckReport(str(path), schema)
    judge = _Judge(report, limits or Limits())
    decoder = PictureDecoder(images or path.parent)
    threads = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool, _GoodRows(path, fix) as good:

        def look(row: Row | Rejected) -> Looked:
            return _looked(row, decoder, schema)

        for looked in _in_order(pool, look, json_rows(path), 8 * threads):
            if judge.add(looked):
                good.keep(looked.line)
            progress(looked.line)
        if report.rows == 0:
            raise DataError(f"{path}: no rows: nothing to train on")
    return report


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Row | Rejected], Looked], rows: Iterable[Row | Rejected], ahead: int
) -> Iterator[Looked]:
    """Results in the order of the rows, at most ``ahead`` of them in work."""
    waiting: deque[Future[Looked]] = deque()
    for row in rows:
        waiting.append(pool.submit(work, row))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _looked(row: Row | Rejected, decoder: PictureDecoder, schema: Schema) -> Looked:
    if isinstance(row, Rejected):
        return Looked(row.line or 0, problems=[BadRow(row.problem, row.message)])
    conversation, problems = examine(row, schema)
    looked = Looked(row.line, conversation, problems)
    for cell in conversation.images if conversation else ():
        try:
            size, digest = decoder.look(cell)
            looked.sizes.append(size)
            looked.digests.append(digest)
        except BadRow as bad:
            problems.append(bad)
            looked.digests.append(f"unknown: {cell!r}")
    return looked


class _Judge:
    """What takes all rows, one after the other: doubles, lengths, statistics."""

    def __init__(self, report: CheckReport, limits: Limits) -> None:
        self.report, self.limits = report, limits
        self._ids: dict[str, int] = {}
        self._contents: dict[bytes, int] = {}

    def add(self, looked: Looked) -> bool:
        """Whether the row is good: no error, and no copy."""
        problems = list(looked.problems)
        conversation = looked.conversation
        if conversation is not None:
            problems += self._marks(conversation)
            problems += self._doubles(conversation, looked.digests)
            if not _hide_length(problems):
                problems += self._tokens(conversation, looked.sizes)
        return self.report.add(looked.line, conversation, problems, self._measure if self.limits.counter else None)

    def _measure(self, text: str) -> int:
        counter = self.limits.counter
        return counter.of_text(text) if counter is not None else len(text)

    def _marks(self, conversation: Conversation) -> Iterator[BadRow]:
        images = len(conversation.images)
        if images > 1:
            yield BadRow("several-images", f"{images} pictures")
        first, *later = (pair.marks for pair in conversation.pairs)
        if any(later) and first + sum(later) == images:
            yield BadRow("image-mark", f"{sum(later)} of {images} image marks are in later questions")

    def _doubles(self, conversation: Conversation, digests: list[str]) -> Iterator[BadRow]:
        if conversation.id:
            line = self._ids.setdefault(conversation.id, conversation.line)
            if line != conversation.line:
                yield BadRow("duplicate-id", f"id {shown(conversation.id)} is line {line}'s")
        content = repr((digests, [(pair.question, pair.answer.split()) for pair in conversation.pairs]))
        key = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        line = self._contents.setdefault(key, conversation.line)
        if line != conversation.line:
            yield BadRow("duplicate-content", f"the same as line {line}")

    def _tokens(self, conversation: Conversation, sizes: list[Size]) -> Iterator[BadRow]:
        counter, most = self.limits.counter, self.limits.max_length
        if counter is None:
            return
        texts = [text for pair in conversation.pairs for text in (pair.question, pair.answer)]
        image_token = counter.chat.image_token
        if image_token and any(image_token in text for text in texts):
            yield BadRow("image-token-in-text", f"{image_token!r} in a text")
            return
        found = next((token for text in texts if (token := counter.chat.special_in(text))), None)
        if found is not None:
            yield BadRow("special-token-in-text", f"{found!r} in a text")
        try:
            length = counter.of_chat(conversation.messages(self.report.schema), sizes)
        except BadRow as bad:
            yield bad
            return
        self.report.lengths.append(length)
        if most is not None and length > most:
            yield BadRow("too-long", f"{length} tokens, more than {most}")


def _hide_length(problems: Iterable[BadRow]) -> bool:
    """Whether counting tokens makes no sense: texts are missing, or the size of a picture is not known."""
    return any(kind(bad.problem).error and bad.problem != "duplicate-id" for bad in problems)


class _GoodRows:
    """Copies good lines of the set, in step with the reading of it; the copy is whole or not there."""

    def __init__(self, path: Path, out: Path | None) -> None:
        self.path, self.out = path, out
        self._file: IO[bytes] | None = None
        self._stack = ExitStack()
        if out is None:
            return
        if out.exists() and path.exists() and os.path.samefile(out, path):
            raise ConfigError(f"{out}: is the set itself: write the good rows to another file")
        self._lines = enumerate(_raw_lines(path), start=1)

    def __enter__(self) -> _GoodRows:
        if self.out is not None:
            partial = self._stack.enter_context(atomic(self.out))
            self._file = self._stack.enter_context(partial.open("wb"))
        return self

    def keep(self, line: int) -> None:
        if self._file is None:
            return
        data = next(data for number, data in self._lines if number == line)
        self._file.write(data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") + b"\n")

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _raw_lines(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        yield from file
