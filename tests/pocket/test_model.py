"""The shipped checkpoint: real accuracy on held-out questions, through the engine."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

import structdecode as sd
from structdecode import registry
from structdecode.answers import final_answer
from structdecode.backends.transformers import TransformersBackend
from structdecode.pocket import checkpoint_path, lessons, world
from structdecode.verifiers import prompts

N = 120
SCENES = list(itertools.islice(world.scenes("test", seed=11), N))


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend.load(str(checkpoint_path()))


@pytest.fixture(scope="module")
def correct(backend: TransformersBackend) -> dict[str, list[bool]]:
    """Which held-out questions each strategy gets right."""
    sampled = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 100}
    cells = {
        "direct": ("direct", {}), "greedy": ("staged", {}), "sample": ("staged", sampled),
        "stage-beam": ("stage-beam", {**sampled, "candidates": 4}), "best-of-n": ("best-of-n", {**sampled, "n": 4}),
    }  # fmt: skip

    async def run(name: str, settings: dict[str, object]) -> list[bool]:
        found = [False] * N
        strategy = registry.build("strategies", name, settings)
        questions = [sd.Prompt(scene.question.text, scene.render()) for scene in SCENES]
        async for at, result in sd.decode_many(questions, backend=backend, strategy=strategy):
            found[at] = final_answer(result.answer) == SCENES[at].answer
        return found

    return {cell: asyncio.run(run(name, settings)) for cell, (name, settings) in cells.items()}


def better(ours: list[bool], theirs: list[bool]) -> float:
    """The paired difference in standard errors."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / N
    variance = sum((d - mean) ** 2 for d in differences) / (N - 1)
    return mean / math.sqrt(variance / N) if variance else 0.0


def test_staged_answers_are_far_above_direct_ones(correct: dict[str, list[bool]]) -> None:
    assert better(correct["greedy"], correct["direct"]) > 2


def test_there_is_room_for_search(correct: dict[str, list[bool]]) -> None:
    assert 0.4 - 0.09 < sum(correct["sample"]) / N < 0.8 + 0.09  # two standard errors of 120 questions


def test_choosing_after_each_stage_loses_nothing(correct: dict[str, list[bool]]) -> None:
    assert better(correct["stage-beam"], correct["sample"]) > -2
    assert better(correct["stage-beam"], correct["best-of-n"]) > -2


def test_chat_template_is_what_the_model_was_taught(backend: TransformersBackend) -> None:
    for pictured in (True, False):
        lesson = lessons.Lesson(SCENES[0].question.text, "", SCENES[0] if pictured else None)
        prompt = sd.Prompt(SCENES[0].question.text, [SCENES[0].render()] if pictured else [])
        taught = lessons.encode(lesson, backend.codec.tokenizer).ids
        assert backend.codec.inputs(prompt)["input_ids"][0].tolist() == taught


def test_every_built_in_question_is_in_its_vocabulary(backend: TransformersBackend) -> None:
    tokenizer = backend.codec.tokenizer
    texts = [prompts.JUDGE, prompts.PRE_CHECK, prompts.P_TRUE, *prompts.RUBRICS.values(), prompts.WHOLE_ANSWER_RUBRIC]
    texts += [registry.load("schemas", name).instruction for name in ("llava-o1", "direct", "cot")]
    for text in texts:
        words = prompts.fill(text, question="", hint="", stage="caption", text="", first="", second="", rubric="")
        assert tokenizer.unk_token_id not in tokenizer.encode(words), text
