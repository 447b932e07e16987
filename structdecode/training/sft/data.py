"""What a run learns from and what it is measured on: a LLaVA-CoT file, split once for good."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from structdecode.backends.transformers.collate import Collator
from structdecode.core.errors import ConfigError, DataError
from structdecode.core.lookup import find_schema
from structdecode.core.paths import atomic
from structdecode.core.reading import open_regular
from structdecode.core.seeds import derive
from structdecode.core.types import Schema
from structdecode.data import load
from structdecode.matching.types import Question
from structdecode.training.examples import ConversationDataset
from structdecode.training.lengths import TokenCounter
from structdecode.training.sft.base import load_base
from structdecode.training.sft.directory import sha256
from structdecode.training.sft.recipe import Recipe
from structdecode.training.sft.trainer import TrainingJob
from structdecode.training.usable import check_left_out, left_out

_log = logging.getLogger(__name__)

HELD_OUT = "held-out.jsonl"
"""In the run directory: the rows that were kept back, so that any other tool can measure on them too."""


def prepare(recipe: Recipe, out: Path, *, trust_remote_code: bool = False) -> TrainingJob:
    """The job of a recipe whose data is a file.

    Raises:
        ConfigError, DataError, ModelError: in one line, before anything is trained.
    """
    if recipe.data is None:
        raise ConfigError("the recipe names no data to train on: give --data")
    path, schema = Path(recipe.data), find_schema(recipe.schema)
    images = Path(recipe.images) if recipe.images else path.parent
    dataset = ConversationDataset(path, images=images, schema=schema)
    model, processor = load_base(recipe, schema, trust_remote_code=trust_remote_code)
    counter = TokenCounter(processor)
    _log.info("looking at %s rows and their pictures", f"{len(dataset):,}")
    dataset = dataset.usable(counter, recipe.max_length)
    check_left_out(path, dataset.rejected, len(dataset), recipe.max_left_out)
    train, held_out = train_test_split(dataset, recipe, out / HELD_OUT)
    if isinstance(recipe.held_out, str):
        held_out = held_out.usable(counter, recipe.max_length)
        check_left_out(held_out.path, held_out.rejected, len(held_out), recipe.max_left_out)
    facts = {
        "data": path.name, "sha256": sha256(path), "examples": len(train), "held out": len(held_out),
        "left out": left_out(dataset.rejected, len(dataset)), "images": str(recipe.images or "beside the data"),
    }  # fmt: skip
    if held_out.rejected:
        facts["left out of held out"] = left_out(held_out.rejected, len(held_out))
    questions = questions_of(held_out.path, images, recipe.accuracy_questions, schema)
    collator = Collator(processor, max_length=recipe.max_length)
    return TrainingJob(
        model, processor, train, held_out, collator, questions, schema, facts, trust_remote_code=trust_remote_code
    )


def train_test_split(
    dataset: ConversationDataset, recipe: Recipe, kept: Path
) -> tuple[ConversationDataset, ConversationDataset]:
    """(training, held out): another file's rows, or some of the data's own, drawn by the seed and written to ``kept``."""
    if isinstance(recipe.held_out, str):
        return dataset, ConversationDataset(recipe.held_out, images=dataset.images, schema=dataset.schema)
    wanted = recipe.held_out * len(dataset) if recipe.held_out < 1 else recipe.held_out
    count = max(1, round(wanted))
    if recipe.held_out <= 0 or count >= len(dataset):
        raise ConfigError(f"held_out is {recipe.held_out:g} of {len(dataset)} rows: between the two is wanted")
    drawn = np.random.default_rng(derive(recipe.seed, "held-out")).permutation(len(dataset))[:count]
    out = np.zeros(len(dataset), dtype=bool)
    out[drawn] = True
    with atomic(kept) as partial, open_regular(dataset.path) as source, partial.open("wb") as file:
        for offset in dataset.offsets[out]:
            source.seek(int(offset))
            file.write(source.readline().rstrip(b"\r\n") + b"\n")
    return dataset.only(~out), ConversationDataset(kept, images=dataset.images, schema=dataset.schema)


def questions_of(path: Path, images: Path, limit: int, schema: Schema) -> list[Question]:
    """The first questions of a held-out file, as `structdecode compare` would ask them; none for a limit of 0."""
    if limit < 1:
        return []
    try:
        found = load(f"llava:{path}", images=images, limit=limit, check_images=False).questions
    except DataError:
        return []  # the rows are good for training and nothing that compare can ask (another schema's, say)
    return list(found)


def count_trained(model: Any) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
