from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from structdecode.core.schemas import LLAVA_O1
from structdecode.core.tags import parse
from structdecode.pocket import world
from structdecode.training.pocket import examples


def take(split: world.Split, n: int, seed: int = 0) -> list[world.Scene]:
    return list(itertools.islice(world.scenes(split, seed), n))


def test_scenes_are_the_same_each_time_and_their_answers_true() -> None:
    assert take("test", 50) == take("test", 50) != take("test", 50, seed=1)
    for scene in take("test", 200):
        words = re.findall(
            r"\b(red|green|blue|yellow|circle|square|triangle|object)s?\b",
            scene.question.text.split("How")[0] or scene.question.text,
        )
        wanted = [
            w
            for w in (words or re.findall(r"\b(red|green|blue|yellow|circle|square|triangle)s?\b", scene.question.text))
            if w != "object"
        ]
        matching = sum(all(word in (t.colour, t.shape) for word in wanted) for t in scene.things)
        subtract = scene.question.text.startswith("Subtract")
        assert scene.answer == str(len(scene.things) - matching if subtract else matching)
        assert [span.text for span in parse(LLAVA_O1, scene.response)] == list(scene.stages.values())


def test_no_layout_is_in_two_splits() -> None:
    layouts = {split: {s.things for s in take(split, 3000)} for split in ("train", "validation", "test")}
    assert not layouts["train"] & layouts["test"] and not layouts["train"] & layouts["validation"]
    assert not layouts["test"] & layouts["validation"]


def test_questions_and_captions_are_read_back() -> None:
    for scene in take("train", 300):
        assert world.parse_question(scene.question.text) == scene.question
        assert world.parse_things(scene.stages["CAPTION"]) == list(scene.things)
    assert world.parse_question("Where is the cat?") is None
    assert world.parse_things("a1 red house.") is None


def test_corruptions_are_wrong_and_their_verdicts_true() -> None:
    rng, still_right = np.random.default_rng(0), 0
    for scene in take("train", 300):
        assert world.corrupt(scene.things, rng) != scene.things
        wrong, right = examples.corrupted_attempt(scene, rng), examples.true_attempt(scene)
        assert right.right
        still_right += wrong.right
        assert all(examples.WRONG not in right.marked(name) for name in examples.STAGES)
        listed = {part.strip(" .") for part in wrong.marked("CAPTION").split(".")}
        for part in filter(None, listed):
            if part[:-1] not in set(map(str, scene.things)):
                assert part.endswith(examples.WRONG)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from structdecode.training.pocket.model import build_tokenizer

    return build_tokenizer()


def test_examples_have_no_unknown_word_and_targets_in_place(tokenizer: examples.PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(1)
    for scene in take("train", 60):
        wrong, right = examples.corrupted_attempt(scene, rng), examples.true_attempt(scene)
        made = [
            examples.answering(scene, rng),
            examples.yes_no(wrong, rng),
            examples.pre_check(right, rng),
            examples.comparison(wrong, right, rng),
        ]
        for example in filter(None, made):
            encoded = examples.encode(example, tokenizer)
            assert tokenizer.unk_token_id not in encoded.ids
            assert len(encoded.ids) == len(encoded.targets) == len(encoded.marks)
            learned = [t for t in encoded.targets if t >= 0]
            assert tokenizer.decode(learned[:-1]) == tokenizer.decode(tokenizer.encode(example.reply))
            assert learned[-1] == tokenizer.eos_token_id
            assert sum(m >= 0 for m in encoded.marks) == sum(
                example.prompt.count(m) for m in (examples.RIGHT, examples.WRONG)
            )
