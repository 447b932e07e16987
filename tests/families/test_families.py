"""A few families of each kind, against their own `generate`; all of them by `make architectures`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from structdecode.backends.transformers import TransformersBackend
from structdecode.backends.transformers.backend import Engine
from structdecode.backends.transformers.selfcheck import compare
from tests.families.catalogue import FAMILIES
from tests.families.run import examined

pytest.importorskip("torchvision")
USUAL = ("forks", "judge")
ORDINARY = ("qwen3_vl", "internvl", "llava_onevision")
WINDOWS = ("gemma3_mid", "llama4_mid")
STATES = ("qwen3_5", "lfm2_vl", "kimi_k25", "gemma4_shared")
OF_THEIR_OWN = ("video_llama_3", "paligemma", "mistral3")
REFUSED = ("blip2",)
CASES: list[tuple[str, Engine, tuple[str, ...]]] = [
    *((name, "slots", USUAL) for name in ORDINARY),
    *((name, "slots", ("forks",)) for name in (*WINDOWS, *STATES, *OF_THEIR_OWN, *REFUSED)),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name, engine, checks", CASES, ids=[f"{name}-{engine}" for name, engine, _ in CASES])
def test_a_family_decodes_as_its_own_generate(
    name: str, engine: Engine, checks: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = examined(FAMILIES[name], FAMILIES[name].save(tmp_path), engine, checks)
    assert not outcome.wrong


def test_the_self_check_looks_around_the_window(tmp_path: Path) -> None:
    backend = TransformersBackend.load(FAMILIES["gemma3_mid"].save(tmp_path), check=False)
    compared = compare(backend)
    assert compared.tokens > 70 and compared.worst < 1e-3  # a short prompt alone gives some thirty
