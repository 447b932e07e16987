"""A few families of each kind, against their own `generate`; all of them by `make architectures`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from structdecode.backends.transformers.backend import Engine
from tests.families.catalogue import FAMILIES
from tests.families.run import examined

pytest.importorskip("torchvision")
ORDINARY = ("qwen3_vl", "internvl", "llava_onevision", "glm4v", "molmo2")
USUAL = ("forks", "judge")
CASES: list[tuple[str, Engine, tuple[str, ...]]] = [
    *((name, "slots", USUAL) for name in ORDINARY),
    *((name, "slots", ("forks",)) for name in ("mistral3", "deepseek_vl", "gemma3_wide")),
    ("qwen2_5_vl", "plain", ("forks",)),
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
