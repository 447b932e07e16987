"""The adapter for lmms-eval: its own logic everywhere, and the harness itself where it is installed."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode import decode
from structdecode.core.errors import ConfigError, ImageError, MissingExtraError
from structdecode.core.types import Prompt
from structdecode.integrations.lmms_eval import StructDecode, items_of, manifest
from structdecode.integrations.search import Search
from structdecode.pocket import world

SEARCH = Search.from_arguments({"strategy": "stage-beam", "candidates": 2, "seed": 3})
ARGUMENTS = "pretrained=pocket,strategy=stage-beam,verifier=self-judge,candidates=2,seed=3"
with_harness = pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed")


def documents(n: int) -> list[dict[str, Any]]:
    scenes = world.scenes("test", 11)
    return [{"image": s.render(), "question": s.question.text} for s in (next(scenes) for _ in range(n))]


def to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def arguments(
    doc_id: int, task: str = "t", messages: Callable[[Any], Any] = to_messages, **gen_kwargs: Any
) -> tuple[Any, ...]:
    """`Instance.args` as the harness makes them: six elements."""
    return "context", messages, {"until": ["\n\n"], **gen_kwargs}, doc_id, task, "test"


def test_jobs_have_their_documents_settings_and_ids() -> None:
    docs = documents(3)
    asked = [arguments(2), arguments(0, max_new_tokens=16), arguments(1, task="u", until=["END"])]
    items = items_of(asked, {"t": {"test": docs}, "u": {"test": docs}}, SEARCH)
    assert [item.sample_id for item in items] == ["t/2", "t/0", "u/1"]
    assert [item.prompt().question for item in items] == [docs[i]["question"] for i in (2, 0, 1)]
    assert [item.schema.stages[-1].sampling.max_tokens for item in items] == [2048, 16, 2048]
    assert [item.until for item in items] == [["\n\n"], ["\n\n"], ["END"]]


def test_repeats_of_a_question_have_ids_of_their_own() -> None:
    items = items_of([arguments(0), arguments(0), arguments(1), arguments(0)], {"t": {"test": documents(2)}}, SEARCH)
    assert [item.sample_id for item in items] == ["t/0", "t/0#1", "t/1", "t/0#2"]


def test_pictures_are_opened_when_it_is_their_turn() -> None:
    docs = [{"image": b"no picture", "question": "What?"}]
    (item,) = items_of([arguments(0)], {"t": {"test": docs}}, SEARCH)
    with pytest.raises(ImageError):
        item.prompt()


def test_a_task_without_settings() -> None:
    (item,) = items_of([("", to_messages, None, 0, "t", "test")], {"t": {"test": documents(1)}}, SEARCH)
    assert item.schema == SEARCH.schema and item.until is None


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is not None, reason="lmms-eval is installed")
def test_without_the_harness_the_error_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'structdecode\[lmms-eval\]'"):
        StructDecode()


def test_the_entry_point_is_the_manifest() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["lmms_eval.models"]
    assert EntryPoint("structdecode", points["structdecode"], "lmms_eval.models").load() is manifest


# ------------------------------------------------------------------ with the harness


def model(docs: list[dict[str, Any]], extra: str = "") -> Any:
    from lmms_eval.models import get_model

    made = get_model("structdecode").create_from_arg_string(ARGUMENTS + extra, {"batch_size": 1})
    made.task_dict["t"] = {"test": docs}
    return made


def instance(*args: Any, **kwargs: Any) -> Any:
    from lmms_eval.api.instance import Instance

    metadata = {"task": "t", "doc_id": args[0], "repeats": 1}
    return Instance("generate_until", arguments(*args, **kwargs), idx=0, metadata=metadata)


@with_harness
def test_the_harness_finds_and_checks_the_class() -> None:
    from lmms_eval.models import get_model

    assert get_model("structdecode") is StructDecode and StructDecode.is_simple is False


@with_harness
def test_answers_in_order_with_the_tokens_of_the_whole_search() -> None:
    from lmms_eval.api.instance import unwrap_generation_output
    from lmms_eval.models.model_utils.usage_metrics import get_running_totals, reset_usage_metrics

    reset_usage_metrics()
    docs = documents(4)
    made = model(docs)
    answers = made.generate_until([instance(i) for i in (3, 1, 0, 2)])
    spent = 0
    for doc_id, answer in zip((3, 1, 0, 2), answers, strict=True):
        prompt = Prompt(docs[doc_id]["question"], [docs[doc_id]["image"]])
        alone = decode(
            prompt, backend=made.backend, strategy=made.search.strategy, seed=3, sample_id=f"t/{doc_id}"
        )  # fmt: skip
        text, counts = unwrap_generation_output(answer)
        assert text == alone.answer and counts.output_tokens == alone.usage.generated_tokens
        spent += alone.usage.generated_tokens
    totals = get_running_totals()
    assert totals["output_tokens"] == spent
    assert totals["total_tokens"] == spent + totals["input_tokens"]


@with_harness
def test_a_broken_picture_is_an_empty_answer_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    docs = [*documents(1), {"image": b"no picture", "question": "What?"}]
    good, bad = model(docs).generate_until([instance(0), instance(1)])
    assert good.text and bad.text == "" and bad.token_counts.output_tokens is None
    assert "t/1: not asked: image bytes" in caplog.text


@with_harness
def test_the_harness_budget_ends_the_run() -> None:
    from lmms_eval.models.model_utils.usage_metrics import reset_usage_metrics, set_budget

    reset_usage_metrics()
    set_budget(1)
    try:
        answers = model(documents(4), ",concurrency=1").generate_until([instance(i) for i in range(4)])
    finally:
        reset_usage_metrics()
    assert [bool(answer.text) for answer in answers] == [True, False, False, False]


@with_harness
def test_what_is_not_supported_says_so() -> None:
    made = model(documents(1))
    with pytest.raises(ConfigError, match="generate_until"):
        made.loglikelihood([])
    with pytest.raises(ConfigError, match="generate_until"):
        made.generate_until_multi_round([])

    def film(doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "What?"}]}]

    with pytest.raises(ConfigError, match=r"^video is not supported"):
        made.generate_until([instance(0, messages=film)])


@with_harness
def test_the_model_is_let_go() -> None:
    made = model(documents(1))
    made.clean()
    assert made.backend is None


def test_a_picture_in_the_harness_form_is_a_picture() -> None:
    (item,) = items_of([arguments(0)], {"t": {"test": documents(1)}}, SEARCH)
    (picture,) = item.prompt().images
    assert isinstance(picture.image, Image.Image) and picture.image.size == (world.SIZE, world.SIZE)
