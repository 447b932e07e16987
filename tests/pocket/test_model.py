"""The shipped checkpoint: real accuracy on held-out questions, through the engine."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

import structdecode as sd
from structdecode.backends.transformers import TransformersBackend
from structdecode.core import registry
from structdecode.core.settings import build
from structdecode.matching.answers import final_answer
from structdecode.pocket import checkpoint_path, world
from structdecode.training.pocket import examples
from structdecode.verifiers import prompts

N = 120
SCENES = list(itertools.islice(world.scenes("test", seed=11), N))


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend.load(str(checkpoint_path()))


@pytest.fixture(scope="module")
def shares(backend: TransformersBackend) -> dict[str, list[float]]:
    """By strategy, each held-out question's share of right answers; "sample" is the mean of best-of-N's candidates.

    One sample a question is too noisy a baseline for so few questions: from one run seed to another it moves by
    more than what there is to show.
    """
    sampled = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 120}
    cells = {
        "direct": ("direct", {}), "greedy": ("staged", {}),
        "stage-beam": ("stage-beam", {**sampled, "candidates": 4}), "best-of-n": ("best-of-n", {**sampled, "n": 4}),
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [0.0] * N for name in (*cells, "sample")}

    async def run(cell: str, name: str, settings: dict[str, object]) -> None:
        strategy = build("strategies", name, settings)
        questions = [sd.Prompt(scene.question.text, scene.render()) for scene in SCENES]
        async for at, result in sd.decode_many(questions, backend=backend, strategy=strategy, concurrency=16):
            right = [
                final_answer(r.candidate.stages.get("CONCLUSION", "")) == SCENES[at].answer for _, r in result.draws
            ]
            found[cell][at] = float(final_answer(result.answer) == SCENES[at].answer)
            if cell == "best-of-n":
                found["sample"][at] = sum(right) / len(right)

    for cell, (name, settings) in cells.items():
        asyncio.run(run(cell, name, settings))
    return found


def better(ours: list[float], theirs: list[float]) -> float:
    """The paired difference in standard errors."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / N
    variance = sum((d - mean) ** 2 for d in differences) / (N - 1)
    return mean / math.sqrt(variance / N) if variance else 0.0


def test_staged_answers_are_far_above_direct_ones(shares: dict[str, list[float]]) -> None:
    assert better(shares["greedy"], shares["direct"]) > 4


def test_there_is_room_for_search(shares: dict[str, list[float]]) -> None:
    assert 0.4 - 0.09 < sum(shares["sample"]) / N < 0.8 + 0.09  # two standard errors of 120 questions


def test_choosing_beats_a_sample_and_stages_lose_nothing(shares: dict[str, list[float]]) -> None:
    assert better(shares["stage-beam"], shares["sample"]) > 1.6
    assert better(shares["best-of-n"], shares["sample"]) > 1.6
    assert better(shares["stage-beam"], shares["best-of-n"]) > -2


def test_chat_template_is_what_the_model_was_taught(backend: TransformersBackend) -> None:
    for pictured in (True, False):
        example = examples.Example(SCENES[0].question.text, "", SCENES[0] if pictured else None)
        prompt = sd.Prompt(SCENES[0].question.text, [SCENES[0].render()] if pictured else [])
        taught = examples.encode(example, backend.codec.tokenizer).ids
        assert backend.codec.inputs(prompt)["input_ids"][0].tolist() == taught


def test_every_built_in_question_is_in_its_vocabulary(backend: TransformersBackend) -> None:
    tokenizer = backend.codec.tokenizer
    texts = [prompts.JUDGE, prompts.PRE_CHECK, prompts.P_TRUE, *prompts.RUBRICS.values(), prompts.WHOLE_ANSWER_RUBRIC]
    texts += [registry.load("schemas", name).instruction for name in ("llava-o1", "direct", "cot")]
    for text in texts:
        words = prompts.fill(text, question="", hint="", stage="caption", text="", first="", second="", rubric="")
        assert tokenizer.unk_token_id not in tokenizer.encode(words), text
