"""The little world: coloured shapes on a 4x4 grid, and questions about how many there are.

A picture is 64x64 pixels, a cell 16x16. Colours and shapes are noisy on purpose: the model then misreads a
shape now and then, which is what gives a search something to find. Every layout belongs to one split for
good, by a hash of what is on it, so no picture of the test split can have been trained on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Split = Literal["train", "validation", "test"]

GRID = 4
CELL = 16
SIZE = GRID * CELL
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 60, 60),
    "green": (60, 175, 75),
    "blue": (65, 95, 205),
    "yellow": (205, 190, 60),
}
SHAPES = ("circle", "square", "triangle")
CELLS = tuple(f"{column}{row + 1}" for row in range(GRID) for column in "abcd"[:GRID])
"""Cell names in reading order: a1 b1 c1 d1 a2 ..."""

BACKGROUND = 118
COLOUR_JITTER = 48.0
"""Standard deviation of the shift of an object's colour, in 8-bit steps a channel."""
PIXEL_NOISE = 40.0
"""Standard deviation of the noise on every pixel and channel, in 8-bit steps."""
MAX_OBJECTS = 8
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Thing:
    """One object of a picture: its cell (index in reading order), colour and shape."""

    cell: int
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{CELLS[self.cell]} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Question:
    """``kind`` of ``count`` asks how many match; ``subtract`` how many are left without them.

    ``colour`` or ``shape`` is None where it does not matter; not both.
    """

    kind: Literal["count", "subtract"]
    colour: str | None
    shape: str | None

    @property
    def target(self) -> str:
        """What is counted, in words: ``red squares``, ``red objects``, ``squares``."""
        noun = f"{self.shape}s" if self.shape else "objects"
        return f"{self.colour} {noun}" if self.colour else noun

    @property
    def text(self) -> str:
        if self.kind == "count":
            return f"How many {self.target} are there?"
        return f"Subtract all {self.target}. How many objects are left?"

    def matches(self, thing: Thing) -> bool:
        return self.colour in (None, thing.colour) and self.shape in (None, thing.shape)

    def counted(self, things: tuple[Thing, ...]) -> list[Thing]:
        """The objects that make up the answer, in reading order."""
        wanted = self.kind == "count"
        return [thing for thing in things if self.matches(thing) == wanted]


@dataclass(frozen=True)
class Scene:
    """A picture's layout, a question on it, and the seed of the picture's noise."""

    things: tuple[Thing, ...]
    question: Question
    noise_seed: int

    @property
    def answer(self) -> str:
        return str(len(self.question.counted(self.things)))

    @property
    def stages(self) -> dict[str, str]:
        """The true text of each of the four stages."""
        return {
            "SUMMARY": summary(self.question),
            "CAPTION": caption(self.things),
            "REASONING": reasoning(self.question, self.things),
            "CONCLUSION": self.answer,
        }

    @property
    def response(self) -> str:
        """The four-stage answer as the LLaVA-CoT data writes it."""
        return " ".join(f"<{name}> {text} </{name}>" for name, text in self.stages.items())

    @property
    def chain_of_thought(self) -> str:
        """The same reasoning without tags and without a caption."""
        return f"{self.stages['REASONING']} {self.answer}"

    def render(self) -> Image.Image:
        return render(self.things, self.noise_seed)


def summary(question: Question) -> str:
    if question.kind == "count":
        return f"Count the {question.target}."
    return f"Leave out the {question.target} and count the rest."


def caption(things: tuple[Thing, ...]) -> str:
    return " ".join(f"{thing}." for thing in things)


def reasoning(question: Question, things: tuple[Thing, ...]) -> str:
    """Every object, whether it counts, and the count so far: ``a1 red square in 1. c3 blue circle out 1. So 1.``"""
    steps, count = [], 0
    counted = question.counted(things)
    for thing in things:
        count += thing in counted
        steps.append(f"{thing} {'in' if thing in counted else 'out'} {count}.")
    return " ".join([*steps, f"So {count}."])


def parse_things(text: str) -> list[Thing] | None:
    """Objects named in a caption, or None where a sentence is not ``cell colour shape``."""
    things = []
    for sentence in filter(None, (part.strip() for part in text.split("."))):
        words = sentence.split()
        if len(words) != 3 or words[0] not in CELLS or words[1] not in COLOURS or words[2] not in SHAPES:
            return None
        things.append(Thing(CELLS.index(words[0]), words[1], words[2]))
    return things


def render(things: tuple[Thing, ...], noise_seed: int) -> Image.Image:
    """Draws a layout. The same layout and seed give the same pixels."""
    rng = np.random.default_rng(noise_seed)
    image = Image.new("RGB", (SIZE, SIZE), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(image)
    for thing in things:
        shift = rng.normal(0.0, COLOUR_JITTER, 3)
        fill = tuple(int(v) for v in np.clip(np.array(COLOURS[thing.colour]) + shift, 0, 255))
        radius = rng.uniform(4.6, 5.8)
        row, column = divmod(thing.cell, GRID)
        x, y = (axis * CELL + CELL / 2 + rng.uniform(-1.5, 1.5) for axis in (column, row))
        box = (x - radius, y - radius, x + radius, y + radius)
        if thing.shape == "circle":
            draw.ellipse(box, fill=fill)
        elif thing.shape == "square":
            draw.rectangle(box, fill=fill)
        else:
            draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=fill)
    noise = rng.normal(0.0, PIXEL_NOISE, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8), "RGB")


def split_of(things: tuple[Thing, ...]) -> Split:
    """The one split a layout belongs to: a tenth each to validation and test, by a hash of the layout."""
    digest = hashlib.blake2b(caption(things).encode(), digest_size=2).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest, "big") % 10, "train")  # type: ignore[return-value]


def scenes(split: Split, seed: int = 0) -> Iterator[Scene]:
    """Endless scenes of a split; the same split and seed give the same scenes."""
    rng = np.random.default_rng([_SPLITS.index(split), seed])
    while True:
        scene = _draw(rng)
        if split_of(scene.things) == split:
            yield scene


def _draw(rng: np.random.Generator) -> Scene:
    kinds = [(c, s) for c in COLOURS for s in SHAPES]
    chosen = [kinds[i] for i in rng.choice(len(kinds), size=rng.integers(2, 5), replace=False)]
    cells = sorted(rng.choice(GRID * GRID, size=rng.integers(3, MAX_OBJECTS + 1), replace=False))
    things = tuple(Thing(int(cell), *chosen[rng.integers(len(chosen))]) for cell in cells)
    colour, shape = chosen[rng.integers(len(chosen))]
    form = rng.integers(3)
    question = Question(
        "count" if rng.random() < 0.5 else "subtract",
        None if form == 0 else colour,
        None if form == 1 else shape,
    )
    return Scene(things, question, int(rng.integers(2**62)))


def corrupt(things: tuple[Thing, ...], rng: np.random.Generator) -> tuple[Thing, ...]:
    """The layout with one or two misreadings of the kinds a model makes: colour, shape, left out, made up."""
    changed = list(things)
    for _ in range(1 if rng.random() < 0.7 else 2):
        fault = rng.random()
        at = int(rng.integers(len(changed)))
        thing = changed[at]
        free = sorted(set(range(GRID * GRID)) - {t.cell for t in changed})
        if fault < 0.42:
            changed[at] = Thing(thing.cell, _other(list(COLOURS), thing.colour, rng), thing.shape)
        elif fault < 0.84:
            changed[at] = Thing(thing.cell, thing.colour, _other(list(SHAPES), thing.shape, rng))
        elif fault < 0.92 and len(changed) > 2:
            del changed[at]
        else:
            changed.append(Thing(int(rng.choice(free)), thing.colour, thing.shape))
            changed.sort(key=lambda t: t.cell)
    result = tuple(changed)
    return result if result != things else corrupt(things, rng)


def _other(values: list[str], but: str, rng: np.random.Generator) -> str:
    return str(rng.choice([value for value in values if value != but]))


_QUESTION = re.compile(
    rf"(?:(how many)|subtract all) (?:({'|'.join(COLOURS)}) )?({'|'.join(f'{s}s' for s in SHAPES)}|objects)\b", re.I
)


def parse_question(text: str) -> Question | None:
    """The question that a text asks, None where it is none of this world's."""
    match = _QUESTION.search(text)
    if match is None:
        return None
    count, colour, noun = match.groups()
    shape = None if noun.lower() == "objects" else noun.lower().removesuffix("s")
    return Question("count" if count else "subtract", colour.lower() if colour else None, shape)
