"""Recorded steps and tokens looked at in blocks: the plain engine's tokens, counts and stops."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from structdecode.core.engine import decode
from structdecode.core.types import Prompt, Sampling, Schema, Stage
from tests.backends.transformers import tiny
from tests.backends.transformers.slots.test_scheduler import answers, backend, questions
from tests.backends.transformers.traced import Traced, recorded


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
@pytest.mark.parametrize("strategy", ["best-of-n", "stage-beam"])
def test_many_at_once_write_what_the_plain_engine_writes(name: str, strategy: str, picture: Image.Image) -> None:
    prompts = questions(picture)
    built = recorded(name)
    assert answers(built, prompts, strategy) == answers(backend(name, engine="plain"), prompts, strategy)
    recorder = built.scheduler.forward.recorder
    assert isinstance(recorder, Traced) and recorder.replays > 5


@pytest.mark.parametrize("sync_interval", [1, 3, 16])
def test_what_is_drawn_behind_a_stop_is_neither_counted_nor_kept(sync_interval: int, prompt: Prompt) -> None:
    """A stop that comes at any place of a block, and a limit that is no multiple of it."""
    letters = Schema(
        "letters", (Stage("A", "", "e", Sampling(max_tokens=30)), Stage("B", sampling=Sampling(max_tokens=7)))
    )
    for seed in range(6):
        found, expected = (
            decode(prompt, backend=built, schema=letters, strategy="stage-beam", seed=seed)
            for built in (recorded("mllama", sync_interval), backend(engine="plain"))
        )
        assert [r.candidate.token_ids for r in found.candidates] == [r.candidate.token_ids for r in expected.candidates]
        assert found.usage.generated_tokens == expected.usage.generated_tokens


def test_a_model_that_cannot_be_recorded_runs_unrecorded(
    picture: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    built, prompts = backend(), questions(picture, 3)
    built.scheduler.forward.recorder = refuse  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        assert answers(built, prompts) == answers(backend(), prompts)
    assert "not permitted" in caplog.text and built.scheduler.forward.recorder is None
