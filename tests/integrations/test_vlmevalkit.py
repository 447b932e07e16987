"""The adapter for VLMEvalKit: its own logic everywhere, and the harness itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode import decode
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError
from structdecode.core.types import Message, Prompt
from structdecode.integrations.vlmevalkit import FAILED, StructDecode, content_id, record, register, run
from structdecode.pocket import world
from structdecode.testing import scripted

installed = importlib.util.find_spec("vlmeval") is not None
COMMAND = [sys.executable, "-m", "structdecode.integrations.vlmevalkit"]
with_harness = pytest.mark.skipif(not installed, reason="VLMEvalKit is not installed")
RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


def test_an_id_is_of_all_that_is_asked() -> None:
    said = [Message("user", "Look."), Message("assistant", "Yes.")]
    prompts = [Prompt("Which?", [RED]), Prompt("What?", [RED]), Prompt("Which?", [BLUE]), Prompt("Which?", [RED], said)]
    ids = [content_id(prompt, "d") for prompt in prompts]
    assert len({*ids, content_id(prompts[0], "e"), content_id(prompts[0], None)}) == 6
    assert content_id(Prompt("Which?", [RED.copy()]), "d") == ids[0]


def test_a_record_is_ready_for_json_and_counts_by_part() -> None:
    result = decode(Prompt("Which?"), backend=ScriptedBackend(scripted), strategy="stage-beam", seed=6)
    found = json.loads(json.dumps(record(result)))
    assert found["stages"] == result.stages and found["seed"] == 6 and found["stopped_by"] is None
    assert found["usage"]["generated_tokens"] == result.usage.generated_tokens
    parts = found["usage_by_part"]
    assert parts["generator"]["generated_tokens"] == result.usage.generated_tokens
    assert parts["verifier"]["verifier_calls"] == result.usage.verifier_calls > 0


@pytest.mark.skipif(installed, reason="VLMEvalKit is installed")
def test_without_the_harness_the_error_says_what_to_install() -> None:
    for make in (StructDecode, register):
        with pytest.raises(ConfigError, match=r"git clone https://github\.com/open-compass/VLMEvalKit"):
            make()
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("structdecode: VLMEvalKit is not installed")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------ with the harness


@pytest.fixture(scope="module")
def model() -> Any:
    return StructDecode(strategy="stage-beam", candidates=2, seed=2)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, str]]]:
    folder, scenes = tmp_path_factory.mktemp("pictures"), world.scenes("test", 12)
    made = []
    for i in range(4):
        scene, path = next(scenes), folder / f"{i}.png"
        scene.render().save(path)
        made.append([{"type": "image", "value": str(path)}, {"type": "text", "value": scene.question.text}])
    return made


def prompt_of(message: list[dict[str, str]]) -> Prompt:
    return Prompt(message[1]["value"], [message[0]["value"]])


@with_harness
def test_answers_are_those_of_decode(model: Any, messages: list[list[dict[str, str]]]) -> None:
    for message in messages:
        prompt = prompt_of(message)
        alone = decode(
            prompt, backend=model.backend, strategy=model.search.strategy, seed=2, sample_id=content_id(prompt, "d")
        )  # fmt: skip
        found = model.generate([dict(part) for part in message], dataset="d")
        assert found["prediction"] == alone.answer and found["extra_records"]["stages"] == alone.stages


@with_harness
def test_several_threads_get_what_one_gets(model: Any, messages: list[list[dict[str, str]]]) -> None:
    one_by_one = [model.generate([dict(part) for part in message], "d")["prediction"] for message in messages * 2]
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(model.generate, [dict(part) for part in message], "d") for message in messages * 2]
    assert [future.result()["prediction"] for future in asked] == one_by_one
    assert model.is_api is False and StructDecode(concurrent=True).is_api is True


@with_harness
def test_a_broken_picture_is_a_failure_the_harness_knows(model: Any, tmp_path: Path) -> None:
    import vlmeval.inference

    (tmp_path / "a.png").write_bytes(b"no picture")
    message = [{"type": "image", "value": str(tmp_path / "a.png")}, {"type": "text", "value": "What?"}]
    found = model.generate(message, "d")
    assert found["prediction"].startswith(vlmeval.inference.FAIL_MSG) and FAILED == vlmeval.inference.FAIL_MSG
    assert "a.png" in found["extra_records"]["error"]


@with_harness
def test_video_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^video is not supported"):
        model.generate_inner([{"type": "video", "value": "a.mp4"}, {"type": "text", "value": "What?"}])


@with_harness
def test_a_talk(model: Any, messages: list[list[dict[str, str]]]) -> None:
    first = model.generate([dict(part) for part in messages[0]], "d")["prediction"]
    talk = [
        {"role": "user", "content": messages[0]}, {"role": "assistant", "content": first},
        {"role": "user", "content": [{"type": "text", "value": "How many circles are there?"}]},
    ]  # fmt: skip
    assert model.chat(talk, "d")["extra_records"]["stages"]["CONCLUSION"]


@with_harness
def test_registering_makes_the_class_and_a_model_known() -> None:
    import vlmeval.config
    import vlmeval.vlm

    register("beam", strategy="stage-beam", candidates=3)
    assert vlmeval.vlm.StructDecode is StructDecode
    assert vlmeval.config.supported_VLM["beam"]().search.strategy.candidates == 3


@with_harness
def test_the_command_is_the_harness_own() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--api-nproc" in done.stdout


@with_harness
def test_a_checkout_runs_its_own_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There `run.py` is a script beside the package, not a module of it."""
    monkeypatch.setitem(sys.modules, "vlmeval.run", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no run\.py here"):
        run()
    (tmp_path / "run.py").write_text(
        "from vlmeval.config import supported_VLM\n"
        "if __name__ == '__main__':\n    open('known', 'w').write(str('structdecode' in supported_VLM))\n"
    )
    run()
    assert (tmp_path / "known").read_text() == "True"
