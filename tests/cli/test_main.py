"""The command as a user runs it: a process of its own, the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from structdecode.pocket import world
from tests import processes

QUESTION = "How many red objects are there?"
KEYS = ["answer", "stages", "strategy", "verifier", "usage", "seed", "stopped_by", "candidates"]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = processes.run(*arguments, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "picture.png"
    next(world.scenes("test", 3)).render().save(path)
    return path


STRATEGIES = ["direct", "cot", "staged", "best-of-n", "self-consistency", "stage-beam", "sentence-beam"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_json_of_every_strategy(picture: Path, strategy: str) -> None:
    done = run("generate", "--image", picture, "--question", QUESTION, "--strategy", strategy, "--json", "--seed", 5)
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert found["answer"] and found["strategy"] == strategy and found["seed"] == 5 and found["stopped_by"] is None
    assert found["usage"]["images_encoded"] == 1
    assert set(found["candidates"][0]) == {"path", "draws", "text", "stages", "score", "reason", "finish_reasons"}


def test_terminal_trace_and_view(picture: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = run(
        "generate",
        "--image",
        picture,
        "--question",
        QUESTION,
        "--verifier",
        "p-true",
        "--trace",
        trace,
        "--show-stages",
    )
    for text in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION", "Answer:", "What it cost", "What the search chose"):
        assert text in done.stdout
    run("view", trace)
    page = trace.with_suffix(".html").read_text()
    assert "Search tree" in page and "http:" not in page and "https:" not in page and "<script" not in page
    assert page.count("<details") == 16


def test_preset_prints_every_setting(picture: Path) -> None:
    done = run(
        "generate",
        "--image",
        picture,
        "--question",
        QUESTION,
        "--preset",
        "llava-o1-paper",
        "--set",
        "verifier.max_tokens=8",
        "--set",
        "max_tokens=60",
    )
    shown = " ".join(done.stdout.split())
    for setting in (
        "candidates=2",
        "beams=1",
        "temperature=0.6",
        "top_p=0.9",
        "pre_check=True",
        "tournament='knockout'",
    ):
        assert setting in shown


def test_a_verifier_made_of_verifiers(picture: Path) -> None:
    nested = "{ensemble: {members: {a: log-prob, b: {rule: {pattern: '[0-9]'}}}}}"
    asked = ("generate", "--image", picture, "--question", QUESTION, "--set", "candidates=2", "--json")
    by_text = json.loads(run(*asked, "--verifier", nested, "--set", "verifier.weights.a=2").stdout)
    dots = (
        "verifier.members.a=log-prob",
        "verifier.members.b=rule",
        "verifier.members.b.pattern=[0-9]",
        "verifier.weights={a: 2}",
    )
    by_dots = json.loads(run(*asked, "--verifier", "ensemble", *(x for text in dots for x in ("--set", text))).stdout)
    assert by_text["verifier"] == by_dots["verifier"] == "ensemble(a=log-prob, b=rule)"
    assert by_text["candidates"] == by_dots["candidates"]


def test_budget_spent_before_an_answer(picture: Path) -> None:
    done = run("generate", "--image", picture, "--question", QUESTION, "--budget", "tokens=3", "--json", code=3)
    found = json.loads(done.stdout)
    assert (found["answer"], found["stopped_by"]) == ("", "tokens")
    assert found["usage"]["generated_tokens"] <= 3
    assert found["candidates"] and "budget" in done.stderr


def test_schema_of_the_users_own(picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"stages": [{"name": "CAPTION", "visible": True, "sampling": {"max_tokens": 40}}]}))
    done = run("generate", "--image", picture, "--question", QUESTION, "--schema", path, "--json")
    assert list(json.loads(done.stdout)["stages"]) == ["CAPTION"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "none.png"], "none.png: no such file"),
        (["--strategy", "stage-bean"], "did you mean 'stage-beam'"),
        (["--verifier", "p-tru"], "did you mean 'p-true'"),
        (["--verifier", "{ensemble: {members: {a: p-tru}}}"], "ensemble: members.a: unknown verifier 'p-tru'"),
        (["--verifier", "{ensemble: {members"], "is not a mapping or list"),
        (["--verifier", "ensemble", "--set", "verifier.members.a=log-prob", "--set", "verifier.weights.b=1"], "weights for b"),
        (["--set", "candidate=2"], "did you mean 'candidates'"),
        (["--set", "candidates=0"], "candidates must be at least 1"),
        (["--set", "beams=9"], "beams must be from 1"),
        (["--set", "candidates"], "key=value"),
        (["--strategy", "direct", "--verifier", "p-true"], "takes no verifier"),
        (["--set", "verifier.scope=stage"], "needs --verifier"),
        (["--preset", "paper"], "unknown preset"),
        (["--budget", "tokens=x"], "must be a number"),
        (["--schema", "none.yaml"], "none.yaml"),
        (["--trace", "no/such/folder/t.json"], "no such directory"),
        (["--model", "./no-such-model"], "no such directory"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--dtype", "int3"], "dtype"),
        (["--question", " "], "the question is empty"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    question = [] if "--question" in arguments else ["--question", "What is it?"]
    done = run("generate", *question, *arguments, code=2)
    assert message in done.stderr and done.stderr.startswith("structdecode: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_unknown_option_exits_2() -> None:
    run("generate", "--quetion", "x", code=2)


def test_list(tmp_path: Path) -> None:
    found = json.loads(run("list", "--json").stdout)
    assert set(STRATEGIES) <= set(found["strategies"])
    assert set(found["schemas"]) >= {"llava-o1", "direct", "cot"}
    assert all(about["summary"] for group in found.values() for about in group.values())
    assert found["strategies"]["stage-beam"]["settings"]["candidates"] == 4
    run("list", "strategie", code=2)


def test_doctor(picture: Path, tmp_path: Path) -> None:
    done = run("doctor", "--image", picture)
    assert "FAIL" not in done.stdout and "decodes as its own generate: 3" in done.stdout
    done = run("doctor", "--model", tmp_path, code=1)
    assert "no config.json" in done.stdout


def test_pocket_sample(tmp_path: Path) -> None:
    out = tmp_path / "data"
    run("pocket", "sample", "--split", "test", "--n", 3, "--out", out)
    records = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert len(records) == 3
    scene = next(world.scenes("test"))
    assert records[0]["conversations"] == [
        {"from": "human", "value": scene.question.text},
        {"from": "gpt", "value": scene.response},
    ]
    assert list(Image.open(out / records[0]["image"]).getdata()) == list(scene.render().getdata())
    for arguments, message in (
        ((), "not empty"),
        (("--force", "--n", 0), "at least 1"),
        (("--force", "--split", "tset"), "did you mean 'test'"),
    ):
        assert message in run("pocket", "sample", "--out", out, *arguments, code=2).stderr


def test_help_is_light_and_quick() -> None:
    code = "import sys, structdecode, structdecode.cli.main; print([m for m in ('torch', 'transformers', 'numpy', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    start = time.perf_counter()
    assert "generate" in run("--help").stdout
    assert time.perf_counter() - start < 60  # a guard against hanging; the figure itself is in benchmarks/
    assert "Examples" in run("generate", "--help").stdout
