"""YAML and JSON that nobody can have meant: one line that names the file, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from structdecode.core.errors import StructdecodeError
from structdecode.core.presets import load_preset
from structdecode.core.reading import parse_yaml, read_document, read_text
from structdecode.core.schemas import load_schema
from structdecode.evaluation.study import load_study
from structdecode.training.reward_model.recipe import load_recipe as load_verifier_recipe
from structdecode.training.sft.recipe import load_recipe
from tests.borders.commands import command, one_line

READERS: list[Callable[[str], Any]] = [load_preset, load_study, load_schema, load_recipe, load_verifier_recipe]


@pytest.mark.parametrize("read", READERS, ids=lambda read: getattr(read, "__qualname__", "recipe"))
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "\\ud800"\nabout: x', "half of a surrogate pair"),
        ('cells: [{strategy: staged, name: "\\udfff"}]', "half of a surrogate pair"),
        ('"\\ud800": 1', "half of a surrogate pair"),
        ("strategy: stage-beam\nverifier: &v {ensemble: {members: {a: *v}}}", "inside of what it stands for"),
        ("cells: &c [{strategy: staged, verifiers: *c}]", "inside of what it stands for"),
    ],
)
def test_what_is_no_text_and_no_tree_is_refused(
    read: Callable[[str], Any], text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(text)
    with pytest.raises(StructdecodeError, match=rf"given.yaml: .*{said}"):
        read(str(path))


def test_json_is_held_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "given.json").write_text('{"name": "\\ud800"}')
    with pytest.raises(StructdecodeError, match="surrogate"):
        read_document(tmp_path / "given.json")


def test_an_alias_may_be_used_often() -> None:
    """Each level stands for the one below ten times over: a walk of all of it would take for ever."""
    levels = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))]
    found = parse_yaml("\n".join(levels))
    assert len(found) == 30 and found["a29"][0] is found["a28"]


@pytest.mark.parametrize("name", ["a\0.yaml", "\ud800.yaml"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file can have such a name"):
        read_text(name)
    with pytest.raises(StructdecodeError, match="no file can have such a name"):
        load_preset(name)
    with pytest.raises(StructdecodeError, match="no file can have such a name"):
        load_schema(name)


ODD = """
class Unseen:
    def __getattr__(self, name):
        raise ValueError("no " + name)

unseen = Unseen()

class Unshown:
    async def score(self, prompt, candidates, model):
        return [1.0] * len(candidates)

    def __repr__(self):
        raise SystemExit(7)
"""


def test_plug_ins_that_cannot_be_looked_at_or_shown(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    asked = ["generate", "--question", "How many?", "--strategy", "best-of-n", "--set", "n=2", "--set", "max_tokens=4"]
    assert "cannot be looked at: ValueError: no score" in one_line(*asked, "--verifier", f"{tmp_path}/odd.py:unseen")
    assert command(*asked, "--verifier", f"{tmp_path}/odd.py:Unshown").code == 0
