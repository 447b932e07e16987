from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.engine import decode
from structdecode.core.errors import BudgetSpent, ConfigError
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.strategies.best_of_n import BestOfN
from structdecode.testing import EchoModel, candidate, check_verifier, scripted
from structdecode.verifiers.tool import Tool

RED = Image.new("RGB", (4, 3), (200, 10, 10))
PROMPT = Prompt("What colour?", [RED, Image.new("RGB", (2, 2), "blue")])

READS_PICTURE = """
import json, sys
from PIL import Image
asked = json.load(sys.stdin)
with open(sys.argv[1], "a") as told:
    told.write(json.dumps(asked) + "\\n")
red = Image.open(asked["images"][0]).getpixel((0, 0))[0]
print(json.dumps({"score": red if "red" in asked["stages"]["CAPTION"] else 0, "reason": "looked", "pixel": red}))
"""


def program(folder: Path, text: str, *arguments: object) -> tuple[str, ...]:
    path = folder / "tool.py"
    path.write_text(text)
    return (sys.executable, str(path), *map(str, arguments))


def score(tool: Tool, *candidates: Candidate, prompt: Prompt = PROMPT) -> list[Score]:
    return asyncio.run(tool.score(prompt, candidates, EchoModel()))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary ones are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_a_command_reads_question_pictures_and_stages(tmp_path: Path, temporary: Path) -> None:
    told = tmp_path / "told.jsonl"
    given = [candidate("s", "a red thing"), candidate("s", "a blue thing")]
    scores = score(Tool(program(tmp_path, READS_PICTURE, told), at_once=1), *given)
    assert scores == [Score(200.0, "looked", {"pixel": 200}), Score(0.0, "looked", {"pixel": 200})]
    asked = [json.loads(line) for line in told.read_text().splitlines()]
    assert [each["text"] for each in asked] == [c.text for c in given] and asked[0]["question"] == "What colour?"
    assert asked[0]["stages"] == given[0].stages and len(asked[0]["images"]) == 2
    assert not any(Path(path).exists() for path in asked[0]["images"]) and not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("print(0.25)", (0.25, "")), ("print('true')", (1.0, "")), ("print('null')", (None, "it gave None")),
        ("print('{\"score\": null, \"reason\": \"no text in it\"}')", (None, "no text in it")), ("print('{\"score\": 3}')", (3.0, "")),
        ("print('good')", (None, "not a number or a score: 'good'")), ("print()", (None, "not a number or a score: ''")),
        ("print('{\"value\": 3}')", (None, "not a number or a score")), ("print('NaN')", (None, "not a number or a score")),
        ("print('[1]')", (None, "not a number or a score")), ("print('1e999')", (None, "not a number or a score")),
        ("print('{\"score\": \"high\"}')", (None, "not a number or a score")), ("print('9' * 10**6)", (None, "not a number or a score")),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)))", (None, "not a number or a score")),
        ("import sys; print(1); print('no model', file=sys.stderr); sys.exit(3)", (None, " ended with 3: no model")),
        ("import os; os.kill(os.getpid(), 9)", (None, " ended with -9")), ("print(1); raise SystemExit(0)", (1.0, "")),
    ],
)  # fmt: skip
def test_whatever_a_command_says_is_data(reply: str, expected: tuple[float | None, str], tmp_path: Path) -> None:
    (found,) = score(Tool(program(tmp_path, reply)), candidate("s"))
    assert found.value == expected[0] and expected[1] in found.reason
    assert found.value is not None or found.reason


def test_a_late_command_ends_with_all_that_it_started(tmp_path: Path, temporary: Path) -> None:
    pids = tmp_path / "pids"
    text = "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '60'])\n"
    text += "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); time.sleep(60)"
    began = time.monotonic()
    (found,) = score(Tool(program(tmp_path, text, pids), timeout=1.5), candidate("s"))
    assert found == Score.unscored("no score within 1.5 s") and time.monotonic() - began < 20
    assert not any(_alive(int(pid)) for pid in pids.read_text().split()) and not list(temporary.iterdir())


def test_a_command_of_a_search_that_is_given_up_ends_too(tmp_path: Path, temporary: Path) -> None:
    pids = tmp_path / "pids"
    text = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    tool = Tool(program(tmp_path, text, pids))

    async def give_up() -> None:
        task = asyncio.ensure_future(tool.score(PROMPT, [candidate("s")], EchoModel()))
        while not pids.exists() or not pids.read_text():
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(give_up())
    assert not _alive(int(pids.read_text())) and not list(temporary.iterdir())


def _alive(pid: int) -> bool:
    """A process that is not only waiting to be reaped."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.02)
    return True


def test_no_more_at_once_than_was_said(tmp_path: Path) -> None:
    text = "import os, sys, time; open(f'{sys.argv[1]}/{os.getpid()}', 'w'); time.sleep(0.3); print(len(os.listdir(sys.argv[1])))\n"
    text += "os.unlink(f'{sys.argv[1]}/{os.getpid()}')"
    most = []
    for at_once in (1, 2):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        found = score(
            Tool(program(tmp_path, text, folder), at_once=at_once), *[candidate("s", str(i)) for i in range(4)]
        )
        most.append(max(s.value or 0 for s in found))
    assert most == [1, 2]


FUNCTIONS = """
def reddest(prompt, candidate):
    if "fail" in candidate.text:
        raise ValueError("nothing to read")
    red = prompt.images[0].image.getpixel((0, 0))[0]
    return {"score": red, "reason": "looked", "pixel": red}

async def length(candidate):
    return len(candidate.text)

def slow(candidate):
    import time
    time.sleep(3)

NUMBER = 3
"""


def test_a_function_by_its_place_or_itself(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    tool = Tool(function=f"{tmp_path}/functions.py:reddest")
    found = score(tool, candidate("s", "fail"), candidate("s", "fine"))
    assert found == [Score.unscored("ValueError: nothing to read"), Score(200.0, "looked", {"pixel": 200})]
    assert score(Tool(function=f"{tmp_path}/functions.py:length"), candidate("s"))[0].value == len(candidate("s").text)
    late = score(Tool(function=f"{tmp_path}/functions.py:slow", timeout=0.1), candidate("s"))
    assert late == [Score.unscored("no score within 0.1 s")]
    assert score(Tool(function=lambda c: np.float32(0.5)), candidate("s")) == [Score(0.5)]
    with pytest.raises(ConfigError, match="tool: function must be a function, not 3"):
        Tool(function=f"{tmp_path}/functions.py:NUMBER")
    with pytest.raises(ConfigError, match="unknown name"):
        Tool(function=f"{tmp_path}/functions.py:redest")


def test_a_spent_budget_passes_through() -> None:
    def spend(candidate: Candidate) -> float:
        raise BudgetSpent("dollars")

    with pytest.raises(BudgetSpent):
        score(Tool(function=spend), candidate("s"))


def test_in_a_search_from_a_command_line(tmp_path: Path) -> None:
    command = program(tmp_path, "import json, sys; print(json.load(sys.stdin)['text'].count('1'))")
    tool = build("verifiers", "tool", {"command": f"[{', '.join(command)}]", "timeout": "30"})
    found = decode(Prompt("How many?", [RED]), backend=ScriptedBackend(scripted), strategy=BestOfN(n=3, verifier=tool))
    assert all(r.score.value == r.candidate.text.count("1") for r in found.candidates) and len(found.candidates) > 1


def test_laws_and_mistakes(tmp_path: Path) -> None:
    check_verifier(Tool(program(tmp_path, "print(1)")))
    check_verifier(Tool(function=lambda c: len(c.text)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "needs a command"), ({"command": ("true",), "function": len}, "needs a command"), ({"command": ("no-such-program-7",)}, "no program"),
        ({"command": "true"}, "command"), ({"function": 3}, "function"), ({"function": len, "timeout": 0.0}, "timeout"),
        ({"function": len, "at_once": 0}, "at_once"),
    ]  # fmt: skip
    for settings, message in wrong:
        with pytest.raises(ConfigError, match=message):
            Tool(**settings)
