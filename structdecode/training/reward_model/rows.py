"""Rows of `structdecode export --to prm`, read when they are asked for; split by question.

A row is read once to be checked. What stays in memory is a byte offset, a length and a question's number a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from structdecode.backends.transformers.collate import too_long
from structdecode.core.errors import ConfigError, DataError, ImageError
from structdecode.core.images import load_picture
from structdecode.core.problems import BadRow, Rejected, kind_of, shown, shown_path
from structdecode.core.reading import open_regular
from structdecode.core.seeds import derive
from structdecode.data.files import json_rows
from structdecode.data.pictures import IMAGE_MARK, check_image_marks, picture_cells
from structdecode.data.rows import Row, checked_text
from structdecode.training.examples import line_starts
from structdecode.training.lengths import TokenCounter
from structdecode.training.usable import Size, examined, split_usable
from structdecode.verifiers.reward_model.collate import Mark, StepExample, chat
from structdecode.verifiers.reward_model.config import SEPARATOR, RewardConfig

_BYTES_A_TOKEN, _TOKENS_A_PICTURE = 4, 256
_SENTENCE = re.compile(r"[.!?](?=\s)")


@dataclass(frozen=True)
class StepRow:
    """One line: an answer's stages with their tags, and a label for each."""

    question: str
    asked: str
    completions: tuple[str, ...]
    stages: tuple[str, ...]
    labels: tuple[bool, ...]
    images: tuple[str, ...]


class StepDataset(Dataset[StepExample]):
    """The good rows of a file, in its order; bad ones are in ``rejected`` and left out.

    Attributes:
        lengths: [N] roughly the tokens of each. pictures: [N] how many each has.
        questions: [N] a number for each question; ``names`` are what the numbers stand for.
        right: [N] the label of each row's last stage.
    """

    def __init__(
        self, path: str | Path, config: RewardConfig, *, sentences: bool = False, outcomes: str | Path | None = None
    ) -> None:
        """Reads the file once.

        Args:
            sentences: also label where sentences inside of a stage end: see `sentence_marks`.
            outcomes: another file with the same answers; an answer's last label is what that one says.

        Raises:
            DataError: the file cannot be read, or has no good row.
        """
        self.path, self.config, self.sentences = Path(path), config, sentences
        self.outcomes = _outcomes(Path(outcomes), config) if outcomes is not None else {}
        starts = line_starts(self.path)
        self.rejected: list[Rejected] = []
        numbers: dict[str, int] = {}
        found: list[tuple[int, int, int, int, bool]] = []
        self._known: dict[str, Size | BadRow] = {}
        for row in json_rows(self.path):
            if isinstance(row, Rejected):
                self.rejected.append(row)
                continue
            try:
                step = self._checked(row)
            except BadRow as bad:
                self.rejected.append(bad.rejected(str(self.path), row.line))
                continue
            size = sum(len(text.encode()) for text in (step.asked, *step.completions)) // _BYTES_A_TOKEN
            number = numbers.setdefault(step.question, len(numbers))
            pictures = len(step.images)
            found.append((row.line, size + _TOKENS_A_PICTURE * pictures, pictures, number, step.labels[-1]))
        if not found:
            first = f"; the first: {self.rejected[0].message}" if self.rejected else ""
            raise DataError(f"{self.path}: none of {len(self.rejected)} rows is good{first}")
        self.names = list(numbers)
        columns = np.array(found, dtype=np.int64).T
        self.lines, self.lengths, self.pictures, self.questions, right = columns
        self.right: NDArray[np.bool_] = right.astype(bool)
        self.offsets: NDArray[np.int64] = starts[self.lines - 1]
        self._of_question = _grouped(self.questions)

    def _checked(self, row: Row) -> StepRow:
        step = self._settled(read_step(row.cells, self.config))
        for name, text in (("prompt", step.asked), *(("completions", text) for text in step.completions)):
            checked_text(name, text)
        for image in step.images:
            self._size(image)
        return step

    def _size(self, image: str) -> Size:
        """Of a picture, which is decoded once. Raises `BadRow` where it cannot be."""
        if image not in self._known:
            place = self.place(image)
            try:
                self._known[image] = load_picture(place).image.size
            except ImageError as error:
                there = place.is_file()
                message = str(error) if there else f"image {shown_path(image)}: no such file: correct the path"
                self._known[image] = BadRow("broken-image" if there else "image-missing", message)
        found = self._known[image]
        if isinstance(found, BadRow):
            raise BadRow(found.problem, str(found))
        return found

    def usable(self, counter: TokenCounter, max_length: int | None = None) -> StepDataset:
        """The same set without answers that the processor does not take or that have more than ``max_length`` tokens.

        They are added to ``rejected``; ``lengths`` are exact afterwards. Raises `DataError` where none is left.
        """

        def sizes_of(index: int) -> list[Size]:
            return [self._size(image) for image in self.step(index).images]

        def length_of(index: int, sizes: Sequence[Size]) -> int:
            step = self.step(index)
            length = counter.of_chat(chat(step.asked, step.images, SEPARATOR.join(step.completions)), sizes)
            if max_length is not None and length > max_length:
                raise BadRow("too-long", too_long(length, max_length))
            return length

        found = split_usable(examined(len(self), sizes_of, length_of), self.path, self.lines, self.rejected)
        other = self._only(found.kept)
        other.lengths, other.rejected = found.lengths, found.rejected
        return other

    def whole(self) -> StepDataset:
        """The same set without answers that end before the schema's last stage. Raises `DataError` where none is left."""
        last = self.config.names[-1]
        kept = np.array([self.step(index).stages[-1] == last for index in range(len(self))])
        if not kept.any():
            raise DataError(f"{self.path}: no answer has a {last}, whose label says whether all of it is right")
        return self._only(kept)

    def _settled(self, step: StepRow) -> StepRow:
        """With the last label that the file of outcomes has."""
        right = self.outcomes.get(_digest(step))
        return step if right is None else replace(step, labels=(*step.labels[:-1], right))

    def place(self, image: str) -> Path:
        """Where a row's picture is."""
        return self.path.parent / image

    def __len__(self) -> int:
        return len(self.offsets)

    def step(self, index: int) -> StepRow:
        """A row without its pictures. Raises `DataError` where the file is no longer what it was."""
        with open_regular(self.path) as file:
            file.seek(int(self.offsets[index]))
            data = file.readline()
        try:
            return self._settled(read_step(json.loads(data), self.config))
        except (ValueError, BadRow):
            line = int(self.lines[index])
            raise DataError(f"{self.path}:{line}: the file changed since it was opened: start again") from None

    def __getitem__(self, index: int) -> StepExample:
        """A row with its pictures decoded. Raises `DataError` where they cannot be any more, or the file changed."""
        index = range(len(self))[index]
        step = self.step(index)
        where = f"{self.path}:{int(self.lines[index])}"
        try:
            images = tuple(load_picture(self.place(image)).image for image in step.images)
        except ImageError as error:
            raise DataError(f"{where}: {error}: it changed since the rows were read") from None
        marks = stage_marks(step, self.config)
        if self.sentences:
            siblings = [self.step(i) for i in self._of_question[int(self.questions[index])]]
            marks = tuple(sorted((*marks, *sentence_marks(step, siblings, self.config)), key=lambda m: m.end))
        answer = SEPARATOR.join(step.completions)
        return StepExample(step.question, chat(step.asked, images, answer), images, where, marks, index)

    def train_test_split(self, held_out: float, seed: int) -> tuple[StepDataset, StepDataset]:
        """(training, held out): all rows of a question are on one side.

        Args:
            held_out: a share of the questions below 1, or how many.
        """
        total = len(self.names)
        count = max(1, round(held_out * total if held_out < 1 else held_out))
        if held_out <= 0 or count >= total:
            raise ConfigError(f"held_out is {held_out:g} of {total} questions: between the two is wanted")
        drawn = np.random.default_rng(derive(seed, "held-out")).permutation(total)[:count]
        out = np.isin(self.questions, drawn)
        return self._only(~out), self._only(out)

    def _only(self, kept: NDArray[np.bool_]) -> StepDataset:
        other = copy(self)
        for name in ("lines", "lengths", "pictures", "questions", "right", "offsets"):
            setattr(other, name, getattr(self, name)[kept])
        other._of_question = _grouped(other.questions)
        return other


def _outcomes(path: Path, config: RewardConfig) -> dict[bytes, bool]:
    """By answer, its last label. Rows that cannot be read say nothing."""
    found: dict[bytes, bool] = {}
    for row in json_rows(path):
        try:
            if isinstance(row, Row):
                step = read_step(row.cells, config)
                found[_digest(step)] = step.labels[-1]
        except BadRow:
            continue
    if not found:
        raise DataError(f"{path}: no row says how an answer came out: export it with --to prm")
    return found


def _digest(step: StepRow) -> bytes:
    return blake2b(json.dumps([step.question, *step.completions]).encode(), digest_size=16).digest()


def _grouped(questions: NDArray[np.int64]) -> Mapping[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for row, question in enumerate(questions.tolist()):
        groups.setdefault(question, []).append(row)
    return groups


def read_step(cells: Mapping[str, Any], config: RewardConfig) -> StepRow:
    """Raises `BadRow` with the first thing that is wrong."""
    asked = cells.get("prompt")
    if not isinstance(asked, str) or not asked.strip():
        raise BadRow("missing-field", f"prompt is {kind_of(asked)}, not a text: export it with --to prm")
    completions, stages = _texts(cells, "completions"), _texts(cells, "stages")
    labels, images = cells.get("labels"), _texts({"images": list(picture_cells(cells))}, "images")
    check_image_marks(asked.count(IMAGE_MARK), len(images))
    asked = asked.replace(IMAGE_MARK, "").strip()
    if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
        raise BadRow("wrong-type", f"labels are {kind_of(labels)}, not a list of true and false")
    if not completions or not len(completions) == len(stages) == len(labels):
        raise BadRow(
            "wrong-length", f"{len(completions)} completions, {len(stages)} stages, {len(labels)} labels: one each"
        )
    order = [config.names.index(stage) if stage in config.names else -1 for stage in stages]
    if -1 in order:
        raise BadRow("unknown-stage", f"schema {config.schema!r} has no stage {shown(stages[order.index(-1)])}")
    if order != sorted(set(order)):
        raise BadRow("stage-order", f"stages are {', '.join(stages)}: each once, in the schema's order")
    for stage, text in zip(order, completions, strict=True):
        _, begin, end = config.stages[stage]
        if not (text == text.strip() and text.startswith(begin) and text.endswith(end) and text):
            raise BadRow("missing-tag", f"completion {shown(text)} is not between {begin!r} and {end!r}")
    origin = cells.get("origin")
    name = origin.get("id") if isinstance(origin, dict) else None
    question = str(name) if name is not None else json.dumps([asked, *images])
    return StepRow(question, asked, completions, stages, tuple(labels), images)


def _texts(cells: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = cells.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRow("wrong-type", f"{name} are {kind_of(value)}, not a list of texts")
    return tuple(value)


# ------------------------------------------------------------------ where values are read


def stage_marks(step: StepRow, config: RewardConfig) -> tuple[Mark, ...]:
    """The end of each stage."""
    return tuple(
        Mark(begin + len(text), float(label), config.names.index(stage))
        for begin, text, stage, label in zip(_begins(step), step.completions, step.stages, step.labels, strict=True)
    )


def sentence_marks(step: StepRow, siblings: Sequence[StepRow], config: RewardConfig) -> Iterator[Mark]:
    """The end of each sentence inside of a stage, but for the last one, which the stage's own label is about.

    Hard estimation as for stages (Math-Shepherd, section 3.3): a beginning is good if a good stage of the same question,
    behind the same stages, continues it. Where there is no such stage it is unknown. That takes answers of which the
    good ones say the same: where many wordings are right, it calls good sentences bad.
    """
    for at, (begin, text, stage) in enumerate(zip(_begins(step), step.completions, step.stages, strict=True)):
        good = [
            other.completions[at]
            for other in siblings
            if len(other.labels) > at and other.labels[at] and other.completions[:at] == step.completions[:at]
        ]
        if not good:
            continue
        kind = config.names.index(stage) + len(config.names)
        inner = len(config.stages[config.names.index(stage)][2])
        ends = [found.end() for found in _SENTENCE.finditer(text)]
        for end in ends:
            if text[end : len(text) - inner].strip():
                yield Mark(begin + end, float(any(other.startswith(text[:end]) for other in good)), kind)


def _begins(step: StepRow) -> list[int]:
    begins, at = [], 0
    for text in step.completions:
        begins.append(at)
        at += len(text) + len(SEPARATOR)
    return begins
