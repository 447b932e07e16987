"""An engine that does not give what the model's own `generate` gives is refused before the first search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from structdecode.backends.transformers import TransformersBackend, selfcheck
from structdecode.backends.transformers.backend import Engine
from structdecode.core.engine import decode
from structdecode.core.errors import ModelError
from structdecode.core.lookup import load_backend
from structdecode.core.types import Prompt
from structdecode.pocket import checkpoint_path
from tests.backends.transformers import tiny
from tests.backends.transformers.test_borrowing import state
from tests.backends.transformers.test_laws import SHORT

ENGINES: list[Engine] = ["slots", "plain"]


class NoPositions(LlavaForConditionalGeneration):
    """Swallows the positions that it is given, and counts for itself: right in `generate`, wrong for ragged rows."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None, position_ids: Any = None, **options: Any) -> Any:
        return super().forward(input_ids, pixel_values, **options)


class OneAtATime(LlavaForConditionalGeneration):
    """Does not take what the slots' attention is told."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **options: Any) -> Any:
        if "rows" in options:
            raise TypeError("unexpected rows")
        return super().forward(input_ids, pixel_values, **options)


class Breaks(LlavaForConditionalGeneration):
    """Takes what only `generate` gives it here."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **options: Any) -> Any:
        if len(input_ids) == 1:
            raise IndexError("several rows\nor none")
        return super().forward(input_ids, pixel_values, **options)


def llava(kind: type) -> tuple[Any, Any]:
    model, processor = tiny.build("llava")
    model.__class__ = kind
    return model, processor


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_passed", set())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_is_silently_decoded_otherwise_is_refused(engine: Engine, picture: Image.Image) -> None:
    with pytest.raises(
        ModelError, match=r"NoPositions decodes \d+ of \d+ tokens behind a picture otherwise than its own"
    ) as caught:
        TransformersBackend(*llava(NoPositions), engine=engine)
    message = str(caught.value)
    assert "\n" not in message and "report it" in message and "check=False" in message
    assert "engine='plain', or" not in message  # which is wrong, too
    unchecked = TransformersBackend(*llava(NoPositions), engine=engine, check=False)
    assert decode(
        Prompt("What is it?", [picture]), backend=unchecked, schema=SHORT, strategy="best-of-n"
    ).best  # not a word


@pytest.mark.parametrize("engine", ENGINES)
def test_one_that_cannot_be_decoded_is_refused_in_one_line(engine: Engine) -> None:
    with pytest.raises(ModelError, match=rf"engine='{engine}' on Breaks fails: IndexError: several rows; ") as caught:
        TransformersBackend(*llava(Breaks), engine=engine)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("no other setting helps") and "engine='plain', or" not in message


def test_the_plain_engine_is_named_where_it_decodes_right() -> None:
    model, processor = llava(OneAtATime)
    with pytest.raises(ModelError, match="unexpected rows; load it with engine='plain', or report it"):
        TransformersBackend(model, processor)
    TransformersBackend(model, processor, engine="plain")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_models_that_are_decoded_right_pass_and_stay_as_they_were(
    name: str, engine: Engine, dtype: torch.dtype
) -> None:
    model, processor = tiny.build(name)
    model.to(dtype)
    with torch.no_grad():
        model.generate(torch.tensor([[1, 20]]), max_new_tokens=1)  # transformers itself adds hooks at the first forward
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None
    before, drawn = state(model), torch.random.get_rng_state()
    backend = TransformersBackend(model, processor, engine=engine, check=False)
    compared = selfcheck.compare(backend)
    assert compared.tokens > 15 and not compared.why_not
    assert compared.worst < (1e-4 if dtype == torch.float32 else 1.0)
    assert state(model) == before and torch.equal(torch.random.get_rng_state(), drawn)
    assert backend.prefixes.hits == 0 and not backend.prefixes.clear()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_pocket_model_passes_here_and_is_not_checked_again_by_every_command(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = selfcheck.compare(TransformersBackend.load(checkpoint_path(), engine=engine, check=False))
    assert compared.tokens > 15 and compared.worst < 1e-4
    monkeypatch.setattr(selfcheck, "compare", lambda *_: pytest.fail("compared"))
    load_backend(None, engine=engine)


def test_a_configuration_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(selfcheck, "compare", lambda backend, thorough: checked.append(backend.engine))
    model, processor = tiny.build("llava")
    for options in ({}, {}, {"engine": "plain"}, {"check": False}):
        TransformersBackend(model, processor, **options)  # type: ignore[arg-type]
    assert checked == ["slots", "plain"]
    model.config.text_config.rms_norm_eps = 0.1
    TransformersBackend(model, processor)
    assert checked == ["slots", "plain", "slots"]
