"""Answering many questions at once, on the real pocket model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from structdecode import decode
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError, PromptError
from structdecode.core.protocols import Backend
from structdecode.core.schemas import COT, LLAVA_O1
from structdecode.core.types import Prompt
from structdecode.integrations.batch import Answer, BatchItem, answer_all
from structdecode.integrations.search import Search, with_generation_arguments
from structdecode.pocket import world
from structdecode.testing import scripted

SEARCH = Search.from_arguments({"strategy": "stage-beam", "candidates": 2, "concurrency": 3, "seed": 4})


@pytest.fixture(scope="module")
def pocket() -> Backend:
    return SEARCH.load_backend()


def drawn(n: int) -> list[Prompt]:
    scenes = world.scenes("test", 5)
    return [Prompt(scene.question.text, [scene.render()]) for scene in (next(scenes) for _ in range(n))]


def fixed(prompt: Prompt) -> Callable[[], Prompt]:
    return lambda: prompt


def test_answers_are_those_of_decode_in_the_order_of_the_jobs(pocket: Backend) -> None:
    prompts = drawn(5)
    items = [BatchItem(f"t/{i}", fixed(prompt), LLAVA_O1) for i, prompt in enumerate(prompts)]
    done: list[BatchItem] = []
    answers = answer_all(items, SEARCH, pocket, finished=lambda item, answer: done.append(item))
    assert sorted(item.sample_id for item in done) == [item.sample_id for item in items]
    for item, prompt, answer in zip(items, prompts, answers, strict=True):
        alone = decode(prompt, backend=pocket, strategy=SEARCH.strategy, seed=4, sample_id=item.sample_id)
        assert answer.result is not None and answer.result.best is not None and alone.best is not None
        assert answer.result.best.token_ids == alone.best.token_ids and answer.text == alone.answer


def test_pictures_are_open_only_for_those_in_flight_and_these_are_as_many_as_asked(pocket: Backend) -> None:
    prompts, in_flight, counts = drawn(7), set[str](), list[int]()

    def prompt(name: str) -> Callable[[], Prompt]:
        def opened() -> Prompt:
            in_flight.add(name)
            counts.append(len(in_flight))
            return prompts[int(name)]

        return opened

    items = [BatchItem(str(i), prompt(str(i)), LLAVA_O1) for i in range(len(prompts))]
    answer_all(items, SEARCH, pocket, finished=lambda item, answer: in_flight.remove(item.sample_id))
    assert len(counts) == len(items) and max(counts) == SEARCH.concurrency


def test_a_question_that_cannot_be_asked_costs_no_other(pocket: Backend) -> None:
    def broken() -> Prompt:
        raise PromptError("the question is empty")

    too_long = Prompt("How many red squares are there? " * 200)
    good = drawn(1)[0]
    items = [
        BatchItem("a", broken, LLAVA_O1),
        BatchItem("b", fixed(good), LLAVA_O1),
        BatchItem("c", fixed(too_long), LLAVA_O1),
    ]
    first, second, third = answer_all(items, SEARCH, pocket)
    assert first == Answer("", error="the question is empty")
    assert second.text and second.result is not None and not second.error
    assert third.text == "" and third.result is None and "the model's context" in third.error


def test_a_mistake_about_the_task_ends_the_run_with_itself(pocket: Backend) -> None:
    def video() -> Prompt:
        raise ConfigError("video is not supported")

    with pytest.raises(ConfigError, match=r"^video is not supported$"):
        answer_all([BatchItem(str(i), video, LLAVA_O1) for i in range(5)], SEARCH, pocket)


def test_each_job_has_its_own_schema_and_stops() -> None:
    backend = ScriptedBackend(lambda prompt, prefix, stage, seed: f"yes STOP no {stage.end}")
    prompt = fixed(Prompt("Is it?"))
    short = with_generation_arguments(COT, {"max_new_tokens": 2})
    search = Search.from_arguments({"strategy": "best-of-n", "n": 2})
    items = [
        BatchItem("a", prompt, LLAVA_O1),
        BatchItem("b", prompt, LLAVA_O1, ["STOP"]),
        BatchItem("c", prompt, short),
    ]
    whole, cut, limited = answer_all(items, search, backend)
    assert (whole.text, cut.text) == ("yes STOP no", "yes")
    assert cut.result is not None and whole.result is not None and limited.result is not None
    assert cut.result.usage.generated_tokens == whole.result.usage.generated_tokens
    assert limited.result.usage.generated_tokens == 2 * 2


def test_what_is_left_out_says_why() -> None:
    done: list[Answer] = []
    items = [BatchItem(str(i), fixed(Prompt("Is it?")), LLAVA_O1) for i in range(4)]
    one_by_one = Search.from_arguments({"concurrency": 1})
    answers = answer_all(
        items, one_by_one, ScriptedBackend(scripted), finished=lambda item, answer: done.append(answer),
        skip=lambda: "spent" if len(done) >= 2 else "",
    )  # fmt: skip
    assert [answer.error for answer in answers] == ["", "", "spent", "spent"]
